//! Owns the rows that benchmarks send: the shape of a truck fleet, the same for the same seed; does not send.
//!
//! Positions walk in steps of 1e-5 degrees, five sensors have one decimal, the tank two, load and status are whole numbers
//! that seldom change. Values are made before the clock starts, as long walks that devices read from; building a batch
//! copies from them, as an application appends what it measured.

use tidewell_codec::{Batch, BatchField, Column, DeviceRuns, FieldType, Values};

use crate::demo::fleet::Rng;

/// Table of the benchmarks.
pub const TABLE: &str = "readings";
/// Time between two rows of a device, unless told otherwise.
pub const STEP_NS: i64 = 10_000_000_000;
/// 2024-01-01: far enough in the past for long runs.
pub const START_NS: i64 = 1_704_067_200_000_000_000;
/// Walks that devices share.
const WALKS: usize = 32;
/// Rows of a walk before it begins again.
const WALK_ROWS: usize = 16_384;

const NAMES: [&str; 10] = [
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

/// Values of a fleet.
pub struct Fleet {
    /// By walk, then by field.
    walks: Vec<Vec<Values>>,
    names: Vec<String>,
    step_ns: i64,
}

impl Fleet {
    /// A fleet whose rows have `fields` fields; more than ten repeat the ten with other names.
    pub fn new(seed: u64, fields: usize) -> Self {
        let names = (0..fields)
            .map(|f| if f < 10 { NAMES[f].to_owned() } else { format!("{}_{}", NAMES[f % 10], f / 10 + 1) })
            .collect();
        let walks = (0..WALKS)
            .map(|walk| {
                let mut columns = Vec::new();
                for part in 0..fields.div_ceil(10) {
                    columns.extend(walk_values(seed, walk * 1_000 + part));
                }
                columns.truncate(fields);
                columns
            })
            .collect();
        Self { walks, names, step_ns: STEP_NS }
    }

    /// The same with rows `step_ns` apart.
    pub fn with_step(self, step_ns: i64) -> Self {
        Self { step_ns, ..self }
    }

    /// The rows numbered `rows` of each of `devices`, in that order.
    pub fn batch_of(&self, devices: &[Device], rows: &[u64]) -> Batch {
        let stretches = rows.chunk_by(|a, b| a + 1 == *b).map(|rows| (rows[0], rows.len()));
        self.stretches(devices, &stretches.collect::<Vec<_>>())
    }

    /// Rows `from..from + rows` of each of `devices`.
    pub fn batch(&self, devices: &[Device], from: u64, rows: usize) -> Batch {
        self.stretches(devices, &[(from, rows)])
    }

    /// Stretches of rows, each its first and how many, of each of `devices`.
    fn stretches(&self, devices: &[Device], stretches: &[(u64, usize)]) -> Batch {
        let rows: usize = stretches.iter().map(|(_, rows)| rows).sum();
        let total = devices.len() * rows;
        let mut runs = DeviceRuns::default();
        let mut times = Vec::with_capacity(total);
        for device in devices {
            runs.push(&device.id, rows as u32);
            for (from, rows) in stretches {
                times.extend((0..*rows as i64).map(|row| START_NS + (*from as i64 + row) * self.step_ns));
            }
        }
        let fields = self.names.iter().enumerate().map(|(field, name)| {
            let field_type = match self.walks[0][field] {
                Values::F64(_) => FieldType::F64,
                _ => FieldType::I64,
            };
            let mut column = Column::new(field_type);
            match &mut column.values {
                Values::F64(values) => values.reserve_exact(total),
                Values::I64(values) => values.reserve_exact(total),
                _ => {}
            }
            for device in devices {
                // Devices of the same walk start at different places of it.
                let first = device.number / WALKS as u64 * 997;
                for (from, rows) in stretches {
                    let mut at = (first + from) as usize % WALK_ROWS;
                    let mut left = *rows;
                    while left > 0 {
                        let take = left.min(WALK_ROWS - at);
                        match (&mut column.values, &self.walks[device.number as usize % WALKS][field]) {
                            (Values::F64(to), Values::F64(from)) => append(to, &from[at..at + take]),
                            (Values::I64(to), Values::I64(from)) => append(to, &from[at..at + take]),
                            _ => unreachable!("all walks have the same types"),
                        }
                        left -= take;
                        at = 0;
                    }
                }
            }
            BatchField { name: name.clone(), column }
        });
        Batch { table: TABLE.into(), devices: runs, fields: fields.collect(), times }
    }
}

/// Adds `values`; few of them one by one, which costs less than a call.
fn append<T: Copy>(to: &mut Vec<T>, values: &[T]) {
    if values.len() < 16 {
        values.iter().for_each(|&value| to.push(value));
    } else {
        to.extend_from_slice(values);
    }
}

/// A device with its number, which chooses its walk.
#[derive(Clone, Debug)]
pub struct Device {
    /// Its id.
    pub id: String,
    /// Its number.
    pub number: u64,
}

impl Device {
    /// Device `number`.
    pub fn new(number: u64) -> Self {
        Self { id: format!("truck_{number:04}"), number }
    }
}

/// Ten columns of one walk. Everything is arithmetic on whole numbers; the only division gives the value its decimals.
fn walk_values(seed: u64, number: usize) -> Vec<Values> {
    let mut rng = Rng::new(seed.wrapping_mul(0xD1B5_4A32_D192_ED03).wrapping_add(number as u64 + 1));
    let mut floats: [Vec<f64>; 8] = std::array::from_fn(|_| Vec::with_capacity(WALK_ROWS));
    let (mut loads, mut statuses) = (Vec::with_capacity(WALK_ROWS), Vec::with_capacity(WALK_ROWS));
    let mut state = [
        3_000_000 + rng.below(1_800_000) as i64,
        -12_000_000 + rng.below(4_500_000) as i64,
        rng.below(20_000) as i64,
        rng.below(1_001) as i64,
        rng.below(3_600) as i64,
        rng.around(50),
        100 + rng.below(300) as i64,
        20 + rng.below(81) as i64,
    ];
    const SCALES: [f64; 8] = [1e5, 1e5, 10.0, 10.0, 10.0, 10.0, 10.0, 100.0];
    let (mut load, mut status) = (rng.below(5_001) as i64, rng.below(6) as i64);
    for _ in 0..WALK_ROWS {
        for (column, (value, scale)) in floats.iter_mut().zip(state.iter().zip(SCALES)) {
            column.push(*value as f64 / scale);
        }
        loads.push(load);
        statuses.push(status);
        let [latitude, longitude, elevation, velocity, heading, grade, rate, tank] = &mut state;
        *latitude = (*latitude + rng.around(150)).clamp(2_500_000, 5_000_000);
        *longitude = (*longitude + rng.around(150)).clamp(-12_500_000, -7_000_000);
        *elevation = (*elevation + rng.around(20)).clamp(0, 50_000);
        *velocity = (*velocity + rng.around(20) + rng.around(20)).clamp(0, 1_000);
        *heading = (*heading + rng.around(50)).rem_euclid(3_600);
        *grade = (*grade + rng.around(3)).clamp(-100, 100);
        *rate = (*rate + rng.around(5)).clamp(0, 500);
        if rng.below(10_000) < 200 {
            *tank = if *tank <= 5 { 100 } else { *tank - 1 };
        }
        if rng.below(10_000) < 20 {
            load = rng.below(5_001) as i64;
        }
        if rng.below(10_000) < 100 {
            status = rng.below(6) as i64;
        }
    }
    let mut columns: Vec<Values> = floats.into_iter().map(Values::F64).collect();
    columns.push(Values::I64(loads));
    columns.push(Values::I64(statuses));
    columns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_follow_each_other_whatever_the_size_of_batches() {
        let fleet = Fleet::new(1, 12);
        let devices = [Device::new(3), Device::new(40)];
        let whole = fleet.batch(&devices[..1], 16_000, 1_000);
        whole.check(&tidewell_codec::BatchLimits::default()).unwrap();
        assert_eq!(whole.fields.len(), 12);
        let parts: Vec<Batch> = (0..10).map(|part| fleet.batch(&devices, 16_000 + part * 100, 100)).collect();
        let first = |batch: &Batch, rows: std::ops::Range<usize>| match &batch.fields[0].column.values {
            Values::F64(values) => values[rows].to_vec(),
            _ => panic!("type"),
        };
        let joined: Vec<f64> = parts.iter().flat_map(|b| first(b, 0..100)).collect();
        assert_eq!(joined, first(&whole, 0..1_000));
        let numbers: Vec<u64> = (16_000..16_100).collect();
        assert_eq!(fleet.batch_of(&devices, &numbers), parts[0]);
        let (mixed, later) = (fleet.batch_of(&devices[..1], &[16_005, 16_006, 16_002]), &whole);
        assert_eq!(first(&mixed, 0..3), [5, 6, 2].map(|row| first(later, row..row + 1)[0]));
        assert_eq!(mixed.times, [5, 6, 2].map(|row: usize| later.times[row]));
        let times: Vec<i64> = parts.iter().flat_map(|b| b.times[..100].to_vec()).collect();
        assert_eq!(times, whole.times);
    }
}
