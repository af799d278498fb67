//! Owns the form of answers in Arrow: their schema and their record batches; does not compute answers.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use arrow::error::ArrowError;

use super::schema::{data_type, duration_type, time_type};
use super::to_arrow::{column_array, device_array};
use crate::answer::{AnswerBatch, AnswerColumn, AnswerField, AnswerType};

/// The Arrow schema of an answer.
pub fn answer_schema(fields: &[AnswerField]) -> SchemaRef {
    let fields: Vec<Field> =
        fields.iter().map(|field| Field::new(&field.name, answer_type(field.answer_type), field.nullable)).collect();
    Arc::new(Schema::new(fields))
}

fn answer_type(answer_type: AnswerType) -> DataType {
    match answer_type {
        AnswerType::Name => DataType::Utf8,
        AnswerType::Time => time_type(),
        AnswerType::Duration => duration_type(),
        AnswerType::Value(field_type) => data_type(field_type),
    }
}

/// One batch of an answer as Arrow arrays; values are not copied.
///
/// # Errors
/// When the batch contradicts `schema`: our bug, not the caller's.
pub fn record_batch(batch: AnswerBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    if batch.columns.len() != schema.fields().len() {
        return Err(ArrowError::SchemaError(format!(
            "answer of {} columns, its schema has {}",
            batch.columns.len(),
            schema.fields().len()
        )));
    }
    let columns = batch.columns.into_iter().zip(schema.fields());
    let arrays: Result<Vec<ArrayRef>, ArrowError> = columns.map(|(column, field)| array(column, field)).collect();
    RecordBatch::try_new(schema.clone(), arrays?)
}

fn array(column: AnswerColumn, field: &Field) -> Result<ArrayRef, ArrowError> {
    let values = match column {
        AnswerColumn::Names(names) => return device_array(names.runs().map(|(name, rows)| (&**name, rows.len()))),
        AnswerColumn::Values(column) => column_array(column)?,
    };
    // Times and durations are stored as integers; the array takes another type over the same buffers.
    match (values.as_primitive_opt::<Int64Type>(), field.data_type()) {
        (Some(integers), DataType::Timestamp(..) | DataType::Duration(_)) => {
            let data = integers.to_data().into_builder().data_type(field.data_type().clone()).build()?;
            Ok(arrow::array::make_array(data))
        }
        _ => Ok(values),
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DurationNanosecondType, Float64Type, TimestampNanosecondType};
    use tidewell_codec::{Column, FieldType, Values};

    use super::*;
    use crate::answer::NameRuns;

    fn integers(values: &[i64]) -> AnswerColumn {
        AnswerColumn::Values(Column { values: Values::I64(values.to_vec()), validity: None })
    }

    #[test]
    fn batches_take_the_types_of_their_schema() {
        let fields = [
            AnswerField::required("device", AnswerType::Name),
            AnswerField::required("start", AnswerType::Time),
            AnswerField::required("duration", AnswerType::Duration),
            AnswerField::nullable("velocity_mean", AnswerType::Value(FieldType::F64)),
        ];
        let schema = answer_schema(&fields);
        let mut names = NameRuns::default();
        names.push(&"truck_1".into(), 2);
        let mut mean = Column { values: Values::F64(vec![2.5]), validity: None };
        mean.extend_nulls(1);
        let columns =
            vec![AnswerColumn::Names(names), integers(&[1, 2]), integers(&[3, 4]), AnswerColumn::Values(mean)];
        let batch = record_batch(AnswerBatch { rows: 2, columns: columns.clone() }, &schema).unwrap();
        assert_eq!(batch.schema(), schema);
        assert_eq!(batch.column(1).as_primitive::<TimestampNanosecondType>().values(), &[1, 2]);
        assert_eq!(batch.column(2).as_primitive::<DurationNanosecondType>().values(), &[3, 4]);
        assert_eq!(batch.column(3).as_primitive::<Float64Type>().null_count(), 1);

        let short = AnswerBatch { rows: 2, columns: columns[..2].to_vec() };
        assert!(record_batch(short, &schema).is_err());
    }
}
