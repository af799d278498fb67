//! Owns the workload that the benches share, trucks that report ten fields every ten seconds; does not measure.
//!
//! - [`store`]: an engine in a temporary folder that holds a fleet's rows

pub mod store;

use tidewell_codec::{Batch, BatchField, Column, DeviceRuns, Values};

/// 2026-01-01T00:00:00Z.
pub const START_NS: i64 = 1_767_225_600_000_000_000;
/// Time between two rows of a truck.
pub const STEP_NS: i64 = 10_000_000_000;
/// Fields of a row, as in the `fleet` workload.
pub const FIELDS: [&str; 10] = [
    "latitude",
    "longitude",
    "elevation",
    "velocity",
    "heading",
    "grade",
    "fuel_consumption",
    "fuel_state",
    "current_load",
    "status",
];

/// A seeded generator (SplitMix64), so that every run sees the same rows.
pub struct Random(u64);

impl Random {
    /// Starts at `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `[-range, range]`.
    pub fn around_zero(&mut self, range: i64) -> i64 {
        (self.bits() % (2 * range as u64 + 1)) as i64 - range
    }

    /// True in `per_10_000` of 10,000 cases.
    pub fn chance(&mut self, per_10_000: u64) -> bool {
        self.bits() % 10_000 < per_10_000
    }
}

/// One truck's state, as integers of its smallest steps.
pub struct Truck {
    random: Random,
    values: [i64; 10],
}

/// Decimals of each field; the last two are integers.
const DECIMALS: [f64; 8] = [1e5, 1e5, 10.0, 10.0, 10.0, 10.0, 10.0, 100.0];

impl Truck {
    /// Truck `number`.
    pub fn new(number: u64) -> Self {
        let mut random = Random::new(number.wrapping_mul(0x9e37_79b9) + 1);
        let mut start = |base: i64, range: i64| base + random.around_zero(range);
        let values = [
            start(4_000_000, 900_000),
            start(-9_750_000, 2_000_000),
            start(10_000, 9_000),
            start(500, 500),
            start(1_800, 1_799),
            start(0, 50),
            start(250, 150),
            start(60, 40),
            start(2_500, 2_500),
            start(3, 3),
        ];
        Self { random, values }
    }

    /// The next row's values.
    pub fn step(&mut self) -> [i64; 10] {
        let row = self.values;
        let (random, v) = (&mut self.random, &mut self.values);
        v[0] = (v[0] + random.around_zero(150)).clamp(2_500_000, 5_000_000);
        v[1] = (v[1] + random.around_zero(150)).clamp(-12_500_000, -7_000_000);
        v[2] = (v[2] + random.around_zero(20)).clamp(0, 50_000);
        v[3] = (v[3] + random.around_zero(20) + random.around_zero(20)).clamp(0, 1_000);
        v[4] = (v[4] + random.around_zero(50)).rem_euclid(3_600);
        v[5] = (v[5] + random.around_zero(3)).clamp(-100, 100);
        v[6] = (v[6] + random.around_zero(5)).clamp(0, 500);
        if random.chance(200) {
            v[7] = if v[7] <= 5 { 100 } else { v[7] - 1 };
        }
        if random.chance(20) {
            v[8] = (random.bits() % 5_001) as i64;
        }
        if random.chance(100) {
            v[9] = (random.bits() % 6) as i64;
        }
        row
    }
}

/// Id of truck `number`.
pub fn truck_id(number: usize) -> String {
    format!("truck_{number}")
}

/// `steps` rows of each truck `first..first + trucks.len()`, from step `from` on. Row order is device by device.
pub fn fleet_batch(trucks: &mut [Truck], first: usize, from: usize, steps: usize) -> Batch {
    let rows = trucks.len() * steps;
    let mut devices = DeviceRuns::default();
    let mut times = Vec::with_capacity(rows);
    let mut reals: Vec<Vec<f64>> = (0..8).map(|_| Vec::with_capacity(rows)).collect();
    let mut integers: Vec<Vec<i64>> = (0..2).map(|_| Vec::with_capacity(rows)).collect();
    for (index, truck) in trucks.iter_mut().enumerate() {
        devices.push(&truck_id(first + index), steps as u32);
        for step in 0..steps {
            times.push(START_NS + (from + step) as i64 * STEP_NS);
            let row = truck.step();
            for (field, column) in reals.iter_mut().enumerate() {
                column.push(row[field] as f64 / DECIMALS[field]);
            }
            integers[0].push(row[8]);
            integers[1].push(row[9]);
        }
    }
    let columns = reals.into_iter().map(Values::F64).chain(integers.into_iter().map(Values::I64));
    let fields = FIELDS
        .iter()
        .zip(columns)
        .map(|(name, values)| BatchField { name: (*name).to_owned(), column: Column { values, validity: None } })
        .collect();
    Batch { table: "readings".into(), devices, times, fields }
}
