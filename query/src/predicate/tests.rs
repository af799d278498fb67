//! Owns tests of conditions: what is refused and where, and that vector code, zone maps and a walk over rows agree.

use std::sync::Arc;

use proptest::prelude::*;
use tidewell_codec::{Tier, decode_narrow, encode_column};
use tidewell_engine::{Column, FieldDef, FieldType, NarrowRows, TableSchema};

use super::*;
use crate::kernels::Cell;
use crate::source::memory::stats;

const FIELDS: [(&str, FieldType); 5] = [
    ("v", FieldType::F64),
    ("n", FieldType::I64),
    ("b", FieldType::Bool),
    ("s", FieldType::Utf8),
    ("wind speed", FieldType::F64),
];

fn schema() -> TableSchema {
    let field = |&(name, field_type): &(&str, FieldType)| FieldDef { name: name.into(), field_type };
    TableSchema { name: "t".into(), fields: FIELDS.iter().map(field).collect() }
}

fn error(text: &str) -> (usize, String) {
    match Predicate::parse(text, &schema()) {
        Err(QueryError::Condition { column, message }) => (column, message),
        other => panic!("{text}: expected an error, found {other:?}"),
    }
}

/// Outcomes of `text` over rows of cells in the order of `FIELDS`.
fn outcomes(text: &str, rows: &[[Cell; 5]]) -> Vec<Option<bool>> {
    let predicate = Predicate::parse(text, &schema()).unwrap_or_else(|e| panic!("{text}: {e}"));
    let scan: Vec<usize> = (0..FIELDS.len()).collect();
    let predicate = predicate.bind(&scan);
    let columns: Vec<Column> = (0..FIELDS.len()).map(|field| column(rows, field)).collect();
    let (mut masks, mut scratch) = (Masks::default(), Scratch::default());
    predicate.evaluate(&columns, rows.len(), &mut masks, &mut scratch);
    assert_eq!((masks.matched.len(), masks.failed.len()), (rows.len().div_ceil(64), rows.len().div_ceil(64)));
    let bit = |words: &[u64], row: usize| words[row / 64] >> (row % 64) & 1 == 1;
    let outcomes: Vec<Option<bool>> = (0..rows.len())
        .map(|row| match (bit(&masks.matched, row), bit(&masks.failed, row)) {
            (true, false) => Some(true),
            (false, true) => Some(false),
            (false, false) => None,
            (true, true) => panic!("row {row} both matches and fails"),
        })
        .collect();
    let counted = outcomes.iter().filter(|o| **o == Some(true)).count();
    assert_eq!(masks.match_count(), counted, "bits past the last row are zero");
    for range in [0..rows.len(), rows.len() / 3..rows.len() - rows.len() / 4, rows.len() / 2..rows.len() / 2] {
        check_narrow(&predicate, &columns, range, &outcomes);
    }
    outcomes
}

/// A condition over columns in narrow form has the same outcomes.
fn check_narrow(predicate: &Predicate, columns: &[Column], range: std::ops::Range<usize>, expected: &[Option<bool>]) {
    for tier in [Tier::Plain, Tier::Hot] {
        let narrow = columns.iter().map(|column| {
            let mut chunk = Vec::new();
            encode_column(column, 0..column.len(), tier, &mut chunk);
            Some(Arc::new(decode_narrow(&chunk, column.field_type(), column.len()).unwrap()))
        });
        let rows = NarrowRows { range: range.clone(), times: None, columns: narrow.collect() };
        let (mut masks, mut scratch) = (Masks::default(), Scratch::default());
        let first = predicate.evaluate_narrow(&rows, &mut masks, &mut scratch);
        assert!(first <= range.start && range.start - first < 64);
        let bit = |words: &[u64], row: usize| words[row / 64] >> (row % 64) & 1 == 1;
        for row in 0..masks.matched.len() * 64 {
            let found = (bit(&masks.matched, row), bit(&masks.failed, row));
            let outcome = expected.get(first + row).copied().flatten().filter(|_| range.contains(&(first + row)));
            assert_eq!(found, (outcome == Some(true), outcome == Some(false)), "row {row} of {range:?}, {tier:?}");
        }
    }
}

fn column(rows: &[[Cell; 5]], field: usize) -> Column {
    let mut column = Column::new(FIELDS[field].1);
    rows.iter().for_each(|row| row[field].push_to(&mut column));
    column
}

fn double(v: f64) -> [Cell; 5] {
    [Cell::F64(v), Cell::Null, Cell::Null, Cell::Null, Cell::F64(v)]
}

fn integer(n: i64) -> [Cell; 5] {
    [Cell::Null, Cell::I64(n), Cell::Null, Cell::Null, Cell::Null]
}

#[test]
fn mistakes_are_named_with_their_column() {
    for (text, column, expected) in [
        ("", 1, "expected a field, a literal, NOT or `(`, found the end"),
        ("v", 2, "expected a comparison like `>`, IS, BETWEEN or IN, found the end"),
        ("v >", 4, "expected a literal: a number, a text in single quotes, true or false, found the end"),
        ("v > 5 n = 1", 7, "expected AND, OR or the end, found the name `n`"),
        ("(v > 5", 7, "expected AND, OR or `)`, found the end"),
        ("v > 5)", 6, "this `)` closes nothing"),
        ("x > 5", 1, "table `t` has no field `x`; known fields: v, n, b, s, wind speed"),
        ("v > 5 AND x > 5", 11, "no field `x`"),
        ("v > n", 5, "expected a number, a text in single quotes, true or false, found the name `n`"),
        ("1 < 2", 5, "expected a field: a comparison is between a field and a literal, found the number 2"),
        ("v = NULL", 5, "NULL equals nothing; use IS NULL or IS NOT NULL"),
        ("v > 'a'", 5, "`v` is f64: expected a number, found the text 'a'"),
        ("n = true", 5, "`n` is i64: expected a number, found true"),
        ("s = 5", 5, "`s` is utf8: expected a text in single quotes, found the number 5"),
        ("b = 1", 5, "`b` is bool: expected true or false, found the number 1"),
        ("b > true", 1, "`b` is bool and takes `=` and `!=` only, found `>`"),
        ("b BETWEEN false AND true", 1, "takes `=` and `!=` only"),
        ("s IN ('a', 5)", 12, "expected a text in single quotes, found the number 5"),
        ("v IN ()", 7, "expected a literal"),
        ("v IN (1 2)", 9, "expected `,` or `)`"),
        ("v BETWEEN 1 OR 2", 13, "expected AND and the upper bound of BETWEEN, found OR"),
        ("v NOT 5", 7, "expected BETWEEN or IN after NOT"),
        ("v IS 5", 6, "expected NULL or NOT NULL"),
        ("s = 'abc", 5, "no closing quote (')"),
        ("\"wind", 1, "no closing quote (\")"),
        ("größe = 1 AND v ; 2", 17, "unexpected character `;`"),
        ("v > 5m", 5, "`5m` is not a number"),
        ("v > 1e999", 5, "`1e999` is too large for a 64-bit float"),
        ("v > 1..2", 5, "`1..2` is not a number"),
        ("v > nan", 5, "found the name `nan`"),
        ("v > -", 5, "unexpected character `-`"),
        ("AND v > 5", 1, "expected a field, a literal, NOT or `(`, found AND"),
    ] {
        let (found_column, found) = error(text);
        assert!(found.contains(expected), "{text}: {found}");
        assert_eq!(found_column, column, "{text}: {found}");
    }
}

#[test]
fn depth_is_bounded() {
    for (open, close) in [("(", ")"), ("NOT ", ""), ("NOT (", ")")] {
        let nested = |depth: usize| format!("{}v > 5{}", open.repeat(depth), close.repeat(depth));
        let levels = open.matches('(').count() + open.matches("NOT").count();
        assert!(Predicate::parse(&nested(DEPTH_MAX / levels), &schema()).is_ok());
        let (column, message) = error(&nested(10_000));
        assert!(message.contains("nest deeper than 64"), "{message}");
        assert!(column > 64);
    }
    // Chains are flat: their length is not depth.
    let chain = vec!["v > 5"; 20_000].join(" OR ");
    assert_eq!(outcomes(&chain, &[double(6.0), double(4.0)]), [Some(true), Some(false)]);
    assert!(error(&format!("v > {}", "5".repeat(CONDITION_BYTES_MAX))).1.contains("at most"));
}

#[test]
fn words_are_read_as_people_write_them() {
    let rows = [double(5.0), double(-5.5)];
    for text in ["v>5.0", "v>=6 or v=1", "v<>5 aNd v != -5.5", "NOT (v = 5 OR v == -5.5)", "v > +5 and not v < -.5e1"] {
        assert_eq!(outcomes(text, &rows)[0], Some(false), "{text}");
    }
    assert_eq!(outcomes("-5.5 = v", &rows), [Some(false), Some(true)]);
    assert_eq!(outcomes("5 > v", &rows), [Some(false), Some(true)]);
    assert_eq!(outcomes("\"wind speed\" > 0", &rows), [Some(true), Some(false)]);
    assert_eq!(outcomes("v between -6 and -5 or v in (5)", &rows), [Some(true), Some(true)]);
    let text = |s: &str| [Cell::Null, Cell::Null, Cell::Bool(true), Cell::Text(s.into()), Cell::Null];
    assert_eq!(outcomes("s = 'it''s' AND b = true", &[text("it's"), text("its")]), [Some(true), Some(false)]);
    assert_eq!(
        outcomes("s > 'b' AND b != false", &[text("ba"), text("b"), text("ü")]),
        [Some(true), Some(false), Some(true)]
    );
}

#[test]
fn nulls_are_unknown_and_nan_is_never_true() {
    let rows = [double(f64::NAN), [const { Cell::Null }; 5]];
    for operator in ["=", "!=", "<", "<=", ">", ">="] {
        assert_eq!(outcomes(&format!("v {operator} 5"), &rows), [Some(false), None], "{operator}");
        assert_eq!(outcomes(&format!("NOT v {operator} 5"), &rows), [Some(true), None], "NOT {operator}");
        assert_eq!(outcomes(&format!("v {operator} 9007199254740993"), &rows), [Some(false), None], "{operator}");
    }
    assert_eq!(outcomes("v IN (5, 6)", &rows), [Some(false), None]);
    assert_eq!(outcomes("v BETWEEN 5 AND 6", &rows), [Some(false), None]);
    assert_eq!(outcomes("v IS NULL", &rows), [Some(false), Some(true)]);
    assert_eq!(outcomes("v IS NOT NULL", &rows), [Some(true), Some(false)]);
    assert_eq!(outcomes("v > 5 OR v IS NULL", &rows), [Some(false), Some(true)]);
    assert_eq!(outcomes("v > 5 AND n = 1", &rows), [Some(false), None]);
    assert_eq!(outcomes("v = 0 AND v IN (0)", &[double(-0.0)]), [Some(true)]);
}

#[test]
fn numbers_of_two_types_compare_exactly() {
    let big = 9_007_199_254_740_993i64; // 2^53 + 1, not a double
    let near = [9_007_199_254_740_992.0, 9_007_199_254_740_994.0];
    let rows = near.map(double);
    let holds = |text: &str| outcomes(text, &rows).iter().map(|o| o.unwrap()).collect::<Vec<_>>();
    assert_eq!(holds(&format!("v < {big}")), [true, false]);
    assert_eq!(holds(&format!("v <= {big}")), [true, false]);
    assert_eq!(holds(&format!("v > {big}")), [false, true]);
    assert_eq!(holds(&format!("v >= {big}")), [false, true]);
    assert_eq!(holds(&format!("v = {big}")), [false, false]);
    assert_eq!(holds(&format!("v IN ({big}, {})", big + 1)), [false, true]);
    assert_eq!(holds(&format!("v != {big}")), [true, true]);
    // 2^53 + 3 rounds up, 2^53 + 1 rounds down.
    assert_eq!(holds(&format!("v < {}", big + 2)), [true, true]);
    assert_eq!(holds(&format!("v > {}", i64::MAX)), [false, false]);

    let rows = [integer(2), integer(3), integer(i64::MAX), integer(i64::MIN)];
    let holds = |text: &str| outcomes(text, &rows).iter().map(|o| o.unwrap()).collect::<Vec<_>>();
    assert_eq!(holds("n > 2.5"), [false, true, true, false]);
    assert_eq!(holds("n >= 2.5"), [false, true, true, false]);
    assert_eq!(holds("n < 2.5"), [true, false, false, true]);
    assert_eq!(holds("n <= 2.5"), [true, false, false, true]);
    assert_eq!(holds("n = 2.5"), [false; 4]);
    assert_eq!(holds("n != 2.5"), [true; 4]);
    assert_eq!(holds("n = 2.0"), [true, false, false, false]);
    assert_eq!(holds("n IN (2.0, 3.5, 1e300, 9223372036854775807)"), [true, false, true, false]);
    assert_eq!(holds("n < 1e300 AND n > -1e300 AND n <= 1.7e308"), [true; 4]);
    assert_eq!(holds("n >= 9223372036854775808"), [false; 4]);
    assert_eq!(holds("n >= 9223372036854775807"), [false, false, true, false]);
    assert_eq!(holds("n > 9223372036854775807"), [false; 4]);
    assert_eq!(holds("n != -9223372036854775808"), [true, true, true, false]);
}

/// A condition whose meaning is computed row by row.
#[derive(Clone, Debug)]
enum Tree {
    Compare(usize, Operator, Literal),
    In(usize, Vec<Literal>),
    IsNull(usize),
    And(Vec<Tree>),
    Or(Vec<Tree>),
    Not(Box<Tree>),
}

use super::token::Literal;

fn literal_text(literal: &Literal) -> String {
    match literal {
        Literal::Integer(v) => v.to_string(),
        Literal::Float(v) => format!("{v:?}"),
        Literal::Bool(v) => v.to_string(),
        Literal::Text(v) => format!("'{}'", v.replace('\'', "''")),
    }
}

impl Tree {
    fn text(&self) -> String {
        let name = |field: usize| format!("\"{}\"", FIELDS[field].0);
        let join =
            |parts: &[Tree], with: &str| parts.iter().map(|p| format!("({})", p.text())).collect::<Vec<_>>().join(with);
        match self {
            Self::Compare(field, operator, literal) => {
                format!("{} {} {}", name(*field), operator.symbol(), literal_text(literal))
            }
            Self::In(field, literals) => {
                format!("{} IN ({})", name(*field), literals.iter().map(literal_text).collect::<Vec<_>>().join(", "))
            }
            Self::IsNull(field) => format!("{} IS NULL", name(*field)),
            Self::And(parts) => join(parts, " AND "),
            Self::Or(parts) => join(parts, " OR "),
            Self::Not(inner) => format!("NOT ({})", inner.text()),
        }
    }

    fn outcome(&self, row: &[Cell; 5]) -> Option<bool> {
        match self {
            Self::Compare(field, operator, literal) => compare(&row[*field], *operator, literal),
            Self::In(field, literals) => {
                let mut any = Some(false);
                for literal in literals {
                    any = or(any, compare(&row[*field], Operator::Equal, literal));
                }
                any
            }
            Self::IsNull(field) => Some(row[*field] == Cell::Null),
            // By De Morgan's law, from `or`.
            Self::And(parts) => parts.iter().map(|p| p.outcome(row).map(|o| !o)).fold(Some(false), or).map(|o| !o),
            Self::Or(parts) => parts.iter().map(|p| p.outcome(row)).fold(Some(false), or),
            Self::Not(inner) => inner.outcome(row).map(|o| !o),
        }
    }
}

fn or(a: Option<bool>, b: Option<bool>) -> Option<bool> {
    match (a, b) {
        (Some(true), _) | (_, Some(true)) => Some(true),
        (Some(false), Some(false)) => Some(false),
        _ => None,
    }
}

fn compare(cell: &Cell, operator: Operator, literal: &Literal) -> Option<bool> {
    use std::cmp::Ordering::{Equal, Greater, Less};
    let order = match (cell, literal) {
        (Cell::Null, _) => return None,
        (Cell::F64(a), Literal::Float(b)) => a.partial_cmp(b),
        (Cell::F64(a), Literal::Integer(b)) => order_exactly(*a, *b),
        (Cell::I64(a), Literal::Integer(b)) => Some(a.cmp(b)),
        (Cell::I64(a), Literal::Float(b)) => order_exactly(*b, *a).map(std::cmp::Ordering::reverse),
        (Cell::Bool(a), Literal::Bool(b)) => Some(a.cmp(b)),
        (Cell::Text(a), Literal::Text(b)) => Some((**a).cmp(b.as_str())),
        other => panic!("{other:?}"),
    };
    Some(order.is_some_and(|order| match operator {
        Operator::Equal => order == Equal,
        Operator::NotEqual => order != Equal,
        Operator::Less => order == Less,
        Operator::LessEqual => order != Greater,
        Operator::Greater => order == Greater,
        Operator::GreaterEqual => order != Less,
    }))
}

/// Order of a double and an integer as numbers.
fn order_exactly(a: f64, b: i64) -> Option<std::cmp::Ordering> {
    if a.is_nan() {
        return None;
    }
    if a.is_infinite() || a.abs() > 1e19 {
        return a.partial_cmp(&0.0);
    }
    let whole = a.floor();
    Some((whole as i128).cmp(&i128::from(b)).then((a - whole).partial_cmp(&0.0)?))
}

const DOUBLES: [f64; 12] = [
    0.0,
    -0.0,
    1.0,
    2.5,
    -3.0,
    f64::INFINITY,
    f64::NEG_INFINITY,
    9_007_199_254_740_992.0,
    9_007_199_254_740_994.0,
    9.223_372_036_854_775e18,
    1e300,
    -9.3e18,
];
const INTEGERS: [i64; 9] = [0, 1, 2, 3, -3, i64::MAX, i64::MIN, 9_007_199_254_740_993, 9_007_199_254_740_995];

fn cells() -> impl Strategy<Value = [Cell; 5]> {
    let f64s = prop_oneof![
        8 => prop::sample::select(DOUBLES.to_vec()).prop_map(Cell::F64),
        1 => Just(Cell::F64(f64::NAN)),
        2 => Just(Cell::Null)
    ];
    let i64s = prop_oneof![4 => prop::sample::select(INTEGERS.to_vec()).prop_map(Cell::I64), 1 => Just(Cell::Null)];
    let bools = prop_oneof![4 => any::<bool>().prop_map(Cell::Bool), 1 => Just(Cell::Null)];
    let texts = prop_oneof![4 => "[ab']{0,2}".prop_map(|s| Cell::Text(s.into())), 1 => Just(Cell::Null)];
    let others = prop_oneof![Just(Cell::Null), Just(Cell::F64(1.0))];
    (f64s, i64s, bools, texts, others).prop_map(|(a, b, c, d, e)| [a, b, c, d, e])
}

fn literal(field: usize) -> BoxedStrategy<Literal> {
    let number = prop_oneof![
        prop::sample::select(DOUBLES.to_vec()).prop_filter("finite", |v| v.is_finite()).prop_map(|v| {
            // What the text of a whole number means to the parser.
            match format!("{v:?}").parse::<i64>() {
                Ok(integer) => Literal::Integer(integer),
                Err(_) => Literal::Float(v),
            }
        }),
        prop::sample::select(INTEGERS.to_vec()).prop_map(Literal::Integer),
    ];
    match FIELDS[field].1 {
        FieldType::F64 | FieldType::I64 => number.boxed(),
        FieldType::Bool => any::<bool>().prop_map(Literal::Bool).boxed(),
        FieldType::Utf8 => "[ab']{0,2}".prop_map(Literal::Text).boxed(),
    }
}

fn operator(field: usize) -> BoxedStrategy<Operator> {
    let equality = vec![Operator::Equal, Operator::NotEqual];
    let order = vec![Operator::Less, Operator::LessEqual, Operator::Greater, Operator::GreaterEqual];
    match FIELDS[field].1 {
        FieldType::Bool => prop::sample::select(equality).boxed(),
        _ => prop::sample::select([equality, order].concat()).boxed(),
    }
}

fn tree() -> impl Strategy<Value = Tree> {
    let leaf = (0..FIELDS.len()).prop_flat_map(|field| {
        prop_oneof![
            6 => (operator(field), literal(field)).prop_map(move |(o, l)| Tree::Compare(field, o, l)),
            2 => prop::collection::vec(literal(field), 1..4).prop_map(move |l| Tree::In(field, l)),
            1 => Just(Tree::IsNull(field)),
        ]
    });
    leaf.prop_recursive(4, 24, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 2..4).prop_map(Tree::And),
            prop::collection::vec(inner.clone(), 2..4).prop_map(Tree::Or),
            inner.prop_map(|t| Tree::Not(Box::new(t))),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn vector_code_equals_a_walk_over_rows(tree in tree(), rows in prop::collection::vec(cells(), 0..150)) {
        let expected: Vec<Option<bool>> = rows.iter().map(|row| tree.outcome(row)).collect();
        prop_assert_eq!(outcomes(&tree.text(), &rows), expected, "{}", tree.text());
    }

    #[test]
    fn zone_maps_never_contradict_the_rows(tree in tree(), rows in prop::collection::vec(cells(), 1..6)) {
        let expected: Vec<Option<bool>> = rows.iter().map(|row| tree.outcome(row)).collect();
        let text = tree.text();
        let predicate = Predicate::parse(&text, &schema()).unwrap();
        let fields = predicate.fields().to_vec();
        let verdict = predicate.verdict(|slot| Some(stats(rows.iter().map(|row| &row[fields[slot]]), rows.len())));
        let some = |outcome| expected.contains(&outcome);
        prop_assert!(verdict.can_match || !some(Some(true)), "{text} {verdict:?}");
        prop_assert!(verdict.can_fail || !some(Some(false)), "{text} {verdict:?}");
        prop_assert!(verdict.can_be_unknown || !some(None), "{text} {verdict:?}");
        prop_assert!(!verdict.some_match || some(Some(true)), "{text} {verdict:?}");
        prop_assert!(!verdict.some_fail || some(Some(false)), "{text} {verdict:?}");
        prop_assert!(!verdict.all_match() || expected.iter().all(|o| *o == Some(true)), "{text} {verdict:?}");
    }

    #[test]
    fn no_text_panics(text in "[vnbs()<>=!'\"0-9.eE+, -]{0,40}|(v|n|>|5|AND|OR|NOT|\\(|\\)|IN|,|IS|NULL|BETWEEN| ){0,20}") {
        let _ = Predicate::parse(&text, &schema());
    }
}

#[test]
fn a_zone_map_skips_what_cannot_match() {
    let block = |values: &[f64]| stats(values.iter().map(|&v| Cell::F64(v)).collect::<Vec<_>>().iter(), values.len());
    let verdict =
        |text: &str, values: &[f64]| Predicate::parse(text, &schema()).unwrap().verdict(|_| Some(block(values)));
    let cold = verdict("v > 95", &[10.0, 20.0]);
    assert!(!cold.can_match && cold.some_fail);
    let hot = verdict("v > 95", &[96.0, 99.0]);
    assert!(hot.all_match());
    assert!(!verdict("v IN (1, 5)", &[2.0, 4.0]).can_match);
    assert!(!verdict("v BETWEEN 1 AND 5", &[6.0, 7.0]).can_match);
    assert!(!verdict("NOT v <= 95 AND v IS NOT NULL", &[1.0, 2.0]).can_match);
    assert!(verdict("NOT v <= 95", &[1.0, f64::NAN]).can_match);
}
