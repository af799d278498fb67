//! Owns the check of a request against a table: names, types, sizes; does not read rows.

use std::sync::Arc;

use tidewell_engine::{FieldDef, FieldType, TableSchema};

use crate::answer::{AnswerField, AnswerSchema, AnswerType};
use crate::devices::Devices;
use crate::downsample::{Plan as WindowPlan, PlannedField, Windows};
use crate::error::QueryError;
use crate::kernels::aggregate_type;
use crate::predicate::Predicate;
use crate::query::QueryLimits;
use crate::request::{
    Aggregate, DeviceSelection, DownsampleRequest, Fill, Group, LatestRequest, RangeRequest, Request, ThresholdAnswer,
    ThresholdRequest, Time,
};
use crate::source::{Source, Table};
use crate::threshold::{IntervalRule, STATISTICS};

/// A request that fits a table.
pub(crate) struct Prepared<T> {
    pub table: Arc<T>,
    pub devices: Devices,
    pub schema: AnswerSchema,
    pub question: Question,
}

/// What to compute, by kind of request.
pub(crate) enum Question {
    Range { rows: RangePlan, limit: Option<u64> },
    Latest { end: i64, fields: Arc<[usize]> },
    Downsample { plan: Box<WindowPlan>, group: Group },
    Intervals { start: i64, end: i64, condition: Predicate, rule: IntervalRule, measured: Vec<(usize, FieldType)> },
    Devices { start: i64, end: i64, condition: Predicate, rule: Option<IntervalRule> },
}

/// Rows to read and to answer; see `RangeWork`.
pub(crate) struct RangePlan {
    pub start: i64,
    pub end: i64,
    pub scan: Vec<usize>,
    pub selected: usize,
    pub condition: Option<Predicate>,
    pub rule: Option<(IntervalRule, Predicate)>,
}

/// Checks `request` against the tables of `source`.
pub(crate) fn prepare<S: Source>(
    source: &S,
    request: &Request,
    limits: &QueryLimits,
) -> Result<Prepared<S::Table>, QueryError> {
    match request {
        Request::Watch(_) => Err(QueryError::NotAvailable { what: "`watch`" }),
        Request::Range(request) => range(Target::find(source, &request.table, &request.devices)?, request),
        Request::Latest(request) => latest(Target::find(source, &request.table, &request.devices)?, request),
        Request::Downsample(request) => {
            downsample(Target::find(source, &request.table, &request.devices)?, request, limits)
        }
        Request::Threshold(request) => threshold(Target::find(source, &request.table, &request.devices)?, request),
    }
}

/// The table and the devices of a request.
struct Target<T> {
    table: Arc<T>,
    schema: Arc<TableSchema>,
    devices: Devices,
}

impl<T: Table> Target<T> {
    fn find<S: Source<Table = T>>(source: &S, name: &str, devices: &DeviceSelection) -> Result<Self, QueryError> {
        let Some(table) = source.table(name) else {
            let known = source.tables().iter().map(|t| t.name.to_string()).collect();
            return Err(QueryError::UnknownTable { table: name.to_owned(), known });
        };
        let schema = table.schema().clone();
        Ok(Self { table: Arc::new(table), schema, devices: Devices::check(devices)? })
    }

    /// The fields called `names`, or all.
    fn fields(&self, names: Option<&[String]>) -> Result<Vec<usize>, QueryError> {
        let Some(names) = names else { return Ok((0..self.schema.fields.len()).collect()) };
        let mut fields = Vec::with_capacity(names.len());
        for name in names {
            let Some((index, _)) = self.schema.field(name) else {
                return Err(QueryError::UnknownField {
                    table: self.schema.name.to_string(),
                    field: name.clone(),
                    known: self.schema.fields.iter().map(|f| f.name.to_string()).collect(),
                });
            };
            if fields.contains(&index) {
                return Err(invalid("fields", "each field once", format!("`{name}` twice")));
            }
            fields.push(index);
        }
        Ok(fields)
    }

    fn field(&self, index: usize) -> &FieldDef {
        &self.schema.fields[index]
    }

    fn condition(&self, text: &str) -> Result<Predicate, QueryError> {
        Predicate::parse(text, &self.schema)
    }

    fn prepared(self, fields: Vec<AnswerField>, question: Question) -> Prepared<T> {
        Prepared { table: self.table, devices: self.devices, schema: fields.into(), question }
    }

    /// `device, time` and the fields.
    fn row_schema(&self, fields: &[usize]) -> Vec<AnswerField> {
        let mut schema = device_and_time();
        schema.extend(fields.iter().map(|&index| {
            let field = self.field(index);
            AnswerField::nullable(&*field.name, AnswerType::Value(field.field_type))
        }));
        schema
    }
}

fn range<T: Table>(table: Target<T>, request: &RangeRequest) -> Result<Prepared<T>, QueryError> {
    let (start, end) = bounds(request.start, request.end)?;
    let fields = table.fields(request.fields.as_deref())?;
    let condition = request.condition.as_deref().map(|text| table.condition(text)).transpose()?;
    let schema = table.row_schema(&fields);
    let rows = range_plan(start, end, fields, condition, None);
    Ok(table.prepared(schema, Question::Range { rows, limit: request.limit }))
}

fn range_plan(
    start: i64,
    end: i64,
    fields: Vec<usize>,
    condition: Option<Predicate>,
    rule: Option<IntervalRule>,
) -> RangePlan {
    let selected = fields.len();
    let mut scan = fields;
    for &field in condition.iter().flat_map(Predicate::fields) {
        if !scan.contains(&field) {
            scan.push(field);
        }
    }
    let rule = rule.zip(condition.clone());
    let condition = condition.map(|c| c.bind(&scan));
    RangePlan { start, end, scan, selected, condition, rule }
}

fn latest<T: Table>(table: Target<T>, request: &LatestRequest) -> Result<Prepared<T>, QueryError> {
    let fields = table.fields(request.fields.as_deref())?;
    // Inclusive in the request, exclusive in a scan.
    let end = request.as_of.map_or(i64::MAX, |as_of| as_of.0.saturating_add(1));
    let schema = table.row_schema(&fields);
    Ok(table.prepared(schema, Question::Latest { end, fields: fields.into() }))
}

fn downsample<T: Table>(
    table: Target<T>,
    request: &DownsampleRequest,
    limits: &QueryLimits,
) -> Result<Prepared<T>, QueryError> {
    let (start, end) = bounds(request.start, request.end)?;
    let aggregates = &request.aggregates;
    if aggregates.is_empty() {
        return Err(invalid("aggregates", "at least one aggregate", "none"));
    }
    if let Some(twice) = (1..aggregates.len()).find(|&i| aggregates[..i].contains(&aggregates[i])) {
        return Err(invalid("aggregates", "each aggregate once", format!("`{}` twice", aggregates[twice].name())));
    }
    let mut scan = table.fields(request.fields.as_deref())?;
    let undefined = |index: usize| {
        let field_type = table.field(index).field_type;
        aggregates.iter().copied().find(|&a| !is_defined(a, field_type, request.fill))
    };
    if request.fields.is_none() {
        // Nobody named these fields: those that the aggregates do not fit are left out.
        scan.retain(|&index| undefined(index).is_none());
    }
    if let Some((index, aggregate)) = scan.iter().find_map(|&index| undefined(index).map(|a| (index, a))) {
        let field = table.field(index);
        let linear = if aggregate_type(aggregate, field.field_type).is_some() { " with linear fill" } else { "" };
        let found = format!("`{}`, which is {}", field.name, field.field_type);
        return Err(invalid("fields", format!("numeric fields for `{}`{linear}", aggregate.name()), found));
    }
    if scan.is_empty() {
        let names: Vec<&str> = aggregates.iter().map(|a| a.name()).collect();
        let found = format!("none in table `{}`", table.schema.name);
        return Err(invalid("fields", format!("a field that {} can be computed of", names.join(", ")), found));
    }
    let windows = Windows::new(request.every, request.origin, &request.timezone, start, end)?;
    check_windows(windows.count(), 1, limits)?;
    let mut schema = device_and_time();
    let mut fields = Vec::with_capacity(scan.len());
    for &index in &scan {
        let field = table.field(index);
        for &aggregate in aggregates {
            let name = format!("{}_{}", field.name, aggregate.name());
            let field_type = aggregate_type(aggregate, field.field_type).unwrap_or(field.field_type);
            schema.push(match aggregate {
                Aggregate::Count => AnswerField::required(name, AnswerType::Value(field_type)),
                _ => AnswerField::nullable(name, AnswerType::Value(field_type)),
            });
        }
        let (name, field_type) = (field.name.to_string(), field.field_type);
        fields.push(PlannedField { name, field_type, aggregates: aggregates.clone() });
    }
    let (group, rows) = (&request.group, limits.batch_rows);
    let plan =
        WindowPlan::new(schema.as_slice().into(), (start, end), windows, fields, scan, request.fill, group, rows);
    Ok(table.prepared(schema, Question::Downsample { plan: Box::new(plan), group: request.group.clone() }))
}

fn is_defined(aggregate: Aggregate, field_type: FieldType, fill: Fill) -> bool {
    let number = |t| matches!(t, FieldType::F64 | FieldType::I64);
    aggregate_type(aggregate, field_type).is_some_and(|result| fill != Fill::Linear || number(result))
}

/// Refuses more windows than the node allows, before any is computed.
pub(crate) fn check_windows(windows: usize, groups: usize, limits: &QueryLimits) -> Result<(), QueryError> {
    let estimate = windows as u128 * groups as u128;
    if estimate > u128::from(limits.windows_max) {
        return Err(QueryError::TooManyWindows { estimate, max: limits.windows_max });
    }
    Ok(())
}

fn threshold<T: Table>(table: Target<T>, request: &ThresholdRequest) -> Result<Prepared<T>, QueryError> {
    let (start, end) = bounds(request.start, request.end)?;
    let condition = table.condition(&request.condition)?;
    let rule = IntervalRule {
        for_at_least: request.for_at_least.map_or(0, |l| l.nanoseconds()),
        max_gap: request.max_gap.map(|l| l.nanoseconds()),
    };
    // Without `for` every matching row belongs to an interval that counts, so intervals need not be found.
    let needed_rule = (rule.for_at_least > 0).then_some(rule);
    let mut schema = vec![AnswerField::required("device", AnswerType::Name)];
    match request.answer {
        ThresholdAnswer::Intervals => {
            schema.push(AnswerField::required("start", AnswerType::Time));
            schema.push(AnswerField::required("end", AnswerType::Time));
            schema.push(AnswerField::required("duration", AnswerType::Duration));
            schema.push(AnswerField::required("samples", AnswerType::Value(FieldType::I64)));
            let mut measured = Vec::new();
            for (slot, &index) in condition.fields().iter().enumerate() {
                let field = table.field(index);
                let types = STATISTICS.map(|s| aggregate_type(s, field.field_type).map(|t| (s, t)));
                if types.iter().all(Option::is_some) {
                    measured.push((slot, field.field_type));
                }
                for (statistic, field_type) in types.into_iter().flatten() {
                    let name = format!("{}_{}", field.name, statistic.name());
                    schema.push(AnswerField::nullable(name, AnswerType::Value(field_type)));
                }
            }
            Ok(table.prepared(schema, Question::Intervals { start, end, condition, rule, measured }))
        }
        ThresholdAnswer::Devices => {
            schema.push(AnswerField::required("matches", AnswerType::Value(FieldType::I64)));
            schema.push(AnswerField::required("first", AnswerType::Time));
            schema.push(AnswerField::required("last", AnswerType::Time));
            Ok(table.prepared(schema, Question::Devices { start, end, condition, rule: needed_rule }))
        }
        ThresholdAnswer::Rows => {
            let fields = table.fields(None)?;
            let schema = table.row_schema(&fields);
            let rows = range_plan(start, end, fields, Some(condition), needed_rule);
            Ok(table.prepared(schema, Question::Range { rows, limit: None }))
        }
    }
}

fn device_and_time() -> Vec<AnswerField> {
    vec![AnswerField::required("device", AnswerType::Name), AnswerField::required("time", AnswerType::Time)]
}

fn bounds(start: Time, end: Time) -> Result<(i64, i64), QueryError> {
    if start < end {
        return Ok((start.0, end.0));
    }
    Err(invalid("end", format!("a time after `start` ({start})"), end.to_string()))
}

fn invalid(key: &'static str, expected: impl Into<String>, found: impl Into<String>) -> QueryError {
    QueryError::Invalid { key, expected: expected.into(), found: found.into() }
}
