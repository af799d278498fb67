//! Owns the simulated trucks of the demo: where they are and what they measure at a simulated time; does not send.

use tidewell_codec::{Batch, BatchField, Column, DeviceRuns, Values};

/// Table of the demo.
pub const TABLE: &str = "readings";
/// Simulated time between two rows of a truck.
pub const STEP_NS: i64 = 10_000_000_000;
/// Degrees above which an engine is too hot.
pub const HOT: f64 = 110.0;
/// The truck that overheats.
pub const OVERHEATING: usize = 12;
/// The truck that drives through a tunnel and sends its rows later.
pub const TUNNEL: usize = 6;

/// Small random numbers with a fixed seed: each run of the demo tells the same story.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A stream of its own for each `number`.
    pub fn new(number: u64) -> Self {
        Self(number.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x7469_6465_7765_6c6c)
    }

    /// The next 64 bits (splitmix64).
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(n)) >> 64) as u64
    }

    /// From `-a` to `a`.
    pub fn around(&mut self, a: i64) -> i64 {
        self.below(2 * a as u64 + 1) as i64 - a
    }
}

/// One truck. Values are whole numbers of their last digit, as sensors give them.
#[derive(Clone, Debug)]
pub struct Truck {
    number: usize,
    rng: Rng,
    step: i64,
    latitude: i64,
    longitude: i64,
    elevation: i64,
    velocity: i64,
    heading: i64,
    fuel_rate: i64,
    fuel: i64,
    temperature: i64,
    load: i64,
    status: i64,
    /// Steps at which this truck's engine is too hot for long.
    hot: std::ops::Range<i64>,
    /// Steps at which it is too hot for a moment: must not become an interval.
    spike: std::ops::Range<i64>,
}

/// Id of a truck.
pub fn device(number: usize) -> String {
    format!("truck_{:02}", number + 1)
}

impl Truck {
    /// Truck `number` of a drive of `steps` rows.
    pub fn new(number: usize, steps: i64) -> Self {
        let mut rng = Rng::new(number as u64);
        let hot_from = steps * 6 / 10;
        Self {
            number,
            step: 0,
            latitude: 4_800_000 + rng.around(300_000),
            longitude: 1_000_000 + rng.around(300_000),
            elevation: 2_000 + rng.around(1_500),
            velocity: 600 + rng.around(200),
            heading: rng.below(3_600) as i64,
            fuel_rate: 250 + rng.around(50),
            fuel: 9_000 + rng.around(900),
            temperature: 880 + rng.around(20),
            load: rng.below(24_000) as i64,
            status: 1,
            // 20 simulated minutes.
            hot: if number == OVERHEATING { hot_from..hot_from + 120 } else { 0..0 },
            // Four rows, 30 seconds from the first to the last.
            spike: if number % 5 == 3 { steps * 3 / 10..steps * 3 / 10 + 4 } else { 0..0 },
            rng,
        }
    }

    /// Steps at which it is too hot for long.
    pub fn hot_steps(&self) -> std::ops::Range<i64> {
        self.hot.clone()
    }

    /// The next `rows` rows, the first of them at `start_ns` plus the steps so far.
    pub fn drive(&mut self, rows: usize, start_ns: i64) -> Batch {
        let mut columns: [Vec<f64>; 8] = std::array::from_fn(|_| Vec::with_capacity(rows));
        let (mut load, mut status, mut times) =
            (Vec::with_capacity(rows), Vec::with_capacity(rows), Vec::with_capacity(rows));
        for _ in 0..rows {
            times.push(start_ns + self.step * STEP_NS);
            let temperature = if self.hot.contains(&self.step) || self.spike.contains(&self.step) {
                1_140 + self.rng.below(60) as i64
            } else {
                self.temperature
            };
            let row = [
                (self.latitude, 1e5),
                (self.longitude, 1e5),
                (self.elevation, 10.0),
                (self.velocity, 10.0),
                (self.heading, 10.0),
                (self.fuel_rate, 10.0),
                (self.fuel, 100.0),
                (temperature, 10.0),
            ];
            for (column, (value, scale)) in columns.iter_mut().zip(row) {
                column.push(value as f64 / scale);
            }
            load.push(self.load);
            status.push(self.status);
            self.advance();
        }
        let names = [
            "latitude",
            "longitude",
            "elevation",
            "velocity",
            "heading",
            "fuel_consumption",
            "fuel_state",
            "engine_temperature",
        ];
        let whole = |values| Column { values: Values::I64(values), validity: None };
        let mut fields: Vec<BatchField> = names
            .iter()
            .zip(columns)
            .map(|(name, values)| BatchField {
                name: (*name).to_owned(),
                column: Column { values: Values::F64(values), validity: None },
            })
            .collect();
        fields.push(BatchField { name: "current_load".into(), column: whole(load) });
        fields.push(BatchField { name: "status".into(), column: whole(status) });
        Batch { table: TABLE.into(), devices: DeviceRuns::single(&device(self.number), rows as u32), times, fields }
    }

    fn advance(&mut self) {
        let rng = &mut self.rng;
        self.step += 1;
        self.latitude += rng.around(150);
        self.longitude += rng.around(150);
        self.elevation = (self.elevation + rng.around(20)).clamp(0, 50_000);
        self.velocity = (self.velocity + rng.around(20)).clamp(0, 950);
        self.heading = (self.heading + rng.around(50)).rem_euclid(3_600);
        self.fuel_rate = (self.fuel_rate + rng.around(5)).clamp(50, 500);
        self.fuel = if self.fuel < 500 { 10_000 } else { self.fuel - rng.below(4) as i64 };
        // Never near the limit by itself: what is too hot is decided by the ranges alone.
        self.temperature = (self.temperature + rng.around(6)).clamp(820, 980);
        if rng.below(500) == 0 {
            self.load = rng.below(24_000) as i64;
        }
        if rng.below(100) == 0 {
            self.status = rng.below(6) as i64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drive_tells_the_same_story_whatever_the_size_of_its_batches() {
        let whole = Truck::new(OVERHEATING, 1_000).drive(1_000, 0);
        let mut truck = Truck::new(OVERHEATING, 1_000);
        let parts: Vec<Batch> = (0..10).map(|_| truck.drive(100, 0)).collect();
        let times: Vec<i64> = parts.iter().flat_map(|b| b.times.clone()).collect();
        assert_eq!(times, whole.times);
        let Some(Column { values: Values::F64(temperature), .. }) = whole.field("engine_temperature") else {
            panic!("type")
        };
        for (step, value) in temperature.iter().enumerate() {
            assert_eq!(*value > HOT, truck.hot_steps().contains(&(step as i64)), "{step}");
        }
        assert_eq!(truck.hot_steps().count(), 120);
        whole.check(&tidewell_codec::BatchLimits::default()).unwrap();
    }

    #[test]
    fn spikes_are_short() {
        let batch = Truck::new(3, 1_000).drive(1_000, 0);
        let Some(Column { values: Values::F64(temperature), .. }) = batch.field("engine_temperature") else {
            panic!("type")
        };
        assert_eq!(temperature.iter().filter(|t| **t > HOT).count(), 4);
    }
}
