use jiff::tz::TimeZone;
use tidewell_codec::{Batch, Column, Values};

use super::*;
use crate::load::input::Format;
use crate::load::sink::{BatchSink, OnError};
use crate::load::times::{TimeFormat, TimeUnit, zone};

fn options() -> CsvOptions {
    CsvOptions {
        table: "t".into(),
        delimiter: None,
        skip_lines: 0,
        columns: None,
        quotes: true,
        latin1: false,
        device: Device::Column("device".into()),
        device_prefix: String::new(),
        device_strip: String::new(),
        time_columns: vec!["time".into()],
        time_prefix: String::new(),
        times: TimeReader::new(TimeFormat::Auto, TimeUnit::Auto, TimeZone::UTC),
        spelling: Spelling::default(),
        types: Vec::new(),
        fields: Vec::new(),
        exclude: Vec::new(),
        rename: HashMap::new(),
    }
}

struct Loaded {
    batches: Vec<Batch>,
    reports: Vec<String>,
    stopped: bool,
}

impl Loaded {
    /// The only batch, as one shard gives one.
    fn column(&self, name: &str) -> &Column {
        &self.batches[0].fields.iter().find(|f| f.name == name).expect("the field is there").column
    }

    fn rows(&self) -> usize {
        self.batches.iter().map(|b| b.times.len()).sum()
    }
}

fn try_load(text: &[u8], options: &CsvOptions, on_error: OnError) -> Result<Loaded> {
    let input = Input {
        name: "a.csv".into(),
        stem: "a".into(),
        format: Format::Csv,
        reader: Box::new(std::io::Cursor::new(text.to_vec())),
    };
    let mut batches = Vec::new();
    let reports = std::sync::Arc::new(parking_lot::Mutex::new(Vec::new()));
    let told = reports.clone();
    let mut sink = BatchSink::new(
        1,
        on_error,
        |batch| {
            batches.push(batch);
            true
        },
        Box::new(move |line| told.lock().push(line)),
    );
    sink.begin_file("a.csv");
    read(input, options, &mut HashMap::new(), &mut sink)?;
    sink.finish();
    let stopped = sink.stopped;
    drop(sink);
    let reports = reports.lock().clone();
    Ok(Loaded { batches, reports, stopped })
}

fn load(text: &str, options: &CsvOptions) -> Loaded {
    let loaded = try_load(text.as_bytes(), options, OnError::Stop).unwrap();
    assert_eq!(loaded.reports, Vec::<String>::new());
    loaded
}

#[test]
fn types_are_inferred_and_empty_cells_are_null() {
    let text = "device,time,n,x,ok,name,late\na,2020-01-01 00:00:00,1,1,true,NW,\nb,2020-01-01 00:00:01,2,2.5,false,,\na,2020-01-01 00:00:02,,-1e3,,\"1,072\",\n";
    let loaded = load(text, &options());
    let batch = &loaded.batches[0];
    assert_eq!(
        batch.devices.iter().map(|(d, r)| (d.to_owned(), r)).collect::<Vec<_>>(),
        [("a".to_owned(), 0..2), ("b".to_owned(), 2..3)]
    );
    assert!(matches!(&loaded.column("n").values, Values::I64(v) if v == &[1, 0, 2]));
    assert!(!loaded.column("n").is_valid(1));
    assert!(matches!(&loaded.column("x").values, Values::F64(v) if v == &[1.0, -1000.0, 2.5]));
    assert!(matches!(&loaded.column("ok").values, Values::Bool(_)));
    assert!(matches!(&loaded.column("name").values, Values::Utf8(v) if v.get(1) == "1,072"));
    assert!(!batch.fields.iter().any(|f| f.name == "late"), "a column without any value is not sent");
}

#[test]
fn preamble_prefix_and_quotes_of_a_fleet_file() {
    let text = "Routes,,,\n,,,\nRoute,Bike,Date,Lat\nr1,\"1,072\",2019-09-10 04:11:19+00,42.11536666666667\n";
    let loaded = load(
        text,
        &CsvOptions {
            skip_lines: 2,
            device: Device::Column("Bike".into()),
            device_prefix: "bike_".into(),
            device_strip: ",".into(),
            time_columns: vec!["Date".into()],
            rename: HashMap::from([("Lat".to_owned(), "lat".to_owned())]),
            exclude: vec!["Route".into()],
            ..options()
        },
    );
    assert_eq!(loaded.batches[0].devices.get(0).0, "bike_1072");
    assert!(matches!(&loaded.column("lat").values, Values::F64(v) if v == &[42.11536666666667]));
    assert_eq!(loaded.batches[0].fields.len(), 1);
}

#[test]
fn semicolons_tabs_and_padding() {
    let loaded = load("time;device;v\n2020-01-01;a; 0.59 \n", &options());
    assert!(matches!(&loaded.column("v").values, Values::F64(v) if v == &[0.59]));
    let loaded = load(
        "1489017618\t20\n1489044623\t16\n",
        &CsvOptions {
            columns: Some(vec!["time".into(), "setpoint".into()]),
            device: Device::Constant("{file}".into()),
            device_prefix: "room_".into(),
            ..options()
        },
    );
    assert_eq!(loaded.batches[0].devices.get(0).0, "room_a");
    assert!(matches!(&loaded.column("setpoint").values, Values::I64(v) if v == &[20, 16]));
}

#[test]
fn a_messy_controller_file() {
    // Latin-1 header, decimal commas, a delimiter at the end of each row, a pattern as time, damaged rows.
    let text = b"Zeit\tTemp [ \xb0C]\tDruck\tMaske\t\n23.08.2019 00:00\t67,5\t-999,9\t0\t\n23.08.2019 00:01\t67\x00,4\n23.08.2019 00:02\t68,0\t-999,9\t1\t\nx\ty\tz\t1\t\n";
    let messy = CsvOptions {
        latin1: true,
        device: Device::Constant("solar".into()),
        time_columns: vec!["Zeit".into()],
        times: TimeReader::new(TimeFormat::Pattern("%d.%m.%Y %H:%M".into()), TimeUnit::Auto, zone("+01:00").unwrap()),
        spelling: Spelling { nulls: vec!["-999,9".into()], decimal_comma: true },
        types: vec!["Maske=bool".parse().unwrap()],
        ..options()
    };
    let loaded = try_load(text, &messy, OnError::Skip).unwrap();
    assert_eq!(loaded.rows(), 2);
    assert!(matches!(&loaded.column("Temp_C").values, Values::F64(v) if v == &[67.5, 68.0]));
    assert!(matches!(&loaded.column("Maske").values, Values::Bool(_)));
    assert_eq!(loaded.reports.len(), 2, "{:?}", loaded.reports);
    assert!(loaded.reports[0].starts_with("a.csv:3: expected 5 columns"), "{:?}", loaded.reports);
    assert!(loaded.reports[1].starts_with("a.csv:5: time `x`"), "{:?}", loaded.reports);
    assert!(!loaded.stopped);
    let loaded = try_load(text, &messy, OnError::Stop).unwrap();
    assert!(loaded.stopped && loaded.rows() == 1 && loaded.reports.len() == 1);
}

#[test]
fn rows_of_a_file_without_any_value_are_named() {
    // Found by the fuzzing target `csv_load`: a batch without a field, which no node takes.
    let loaded = try_load(b"time,device,v\n1,a,\n2,a,\n", &options(), OnError::Skip).unwrap();
    assert_eq!((loaded.batches.len(), loaded.reports.len()), (0, 2));
    assert!(loaded.reports[0].starts_with("a.csv:2: no column has had a value"), "{:?}", loaded.reports);
}

#[test]
fn several_columns_make_a_time() {
    let loaded = load(
        "year,month,day,hour,v,device\n2013,3,1,5,7,a\n",
        &CsvOptions {
            time_columns: ["year", "month", "day", "hour"].map(str::to_owned).to_vec(),
            times: TimeReader::new(TimeFormat::Pattern("%Y %m %d %H".into()), TimeUnit::Auto, TimeZone::UTC),
            ..options()
        },
    );
    assert_eq!(loaded.batches[0].times, [1_362_114_000_000_000_000]);
    let loaded =
        load("time,device,v\n07:06:35.006,a,1\n", &CsvOptions { time_prefix: "2018-02-14 ".into(), ..options() });
    assert_eq!(loaded.batches[0].times, [1_518_591_995_006_000_000]);
}

#[test]
fn missing_columns_and_bad_bytes_are_named() {
    let message = |text: &[u8], options: &CsvOptions| {
        let error = try_load(text, options, OnError::Stop).err().expect("it fails");
        assert_eq!(crate::failure::exit_code(&error), crate::failure::EXIT_USAGE);
        crate::failure::one_line(&error)
    };
    let text = message(b"when,device,v\n1,a,1\n", &options());
    assert!(text.contains("`time`") && text.contains("`when`") && text.contains("a.csv"), "{text}");
    let text = message(b"time,device,v\xb0\n1,a,1\n", &options());
    assert!(text.contains("latin-1"), "{text}");
    let text = message(b"time,device,v,v\n1,a,1,1\n", &options());
    assert!(text.contains("columns 3 and 4"), "{text}");
    let text = message(b"time,device\n1,a\n", &options());
    assert!(text.contains("no column is left"), "{text}");
    let loaded = try_load(
        b"time,device,v\n2020-01-01,a,1\n2020-01-02,a,1.5\n",
        &CsvOptions { types: vec!["v=i64".parse().unwrap()], ..options() },
        OnError::Stop,
    )
    .unwrap();
    assert!(loaded.stopped && loaded.reports[0].contains("--types 'v=f64'"), "{:?}", loaded.reports);
    assert_eq!(try_load(b"", &options(), OnError::Stop).unwrap().rows(), 0);
}

#[test]
fn a_survey_sees_what_a_sample_would_miss() {
    let mut text = "time,device,v,w\n".to_owned();
    (0..3_000).for_each(|i| text += &format!("{i},a,{i},1\n"));
    text += "3000,a,0.5,1\nnonsense,a,text,text\n";
    let input = Input {
        name: "a.csv".into(),
        stem: "a".into(),
        format: Format::Csv,
        reader: Box::new(std::io::Cursor::new(text.into_bytes())),
    };
    let mut guesses = HashMap::new();
    survey(input, &options(), &mut guesses).unwrap();
    assert_eq!(guesses["v"].field_type(), Some(FieldType::F64));
    assert_eq!(guesses["w"].field_type(), Some(FieldType::I64));
    let everything = CsvOptions { types: vec!["*=f64".parse().unwrap()], ..options() };
    assert_eq!(everything.type_of(guesses["w"]), Some(FieldType::F64));
}

#[test]
fn bad_lines_are_numbered_as_an_editor_does() {
    // Blank lines and CRLF used to shift the numbers: the reader counts lines where it stands, not where a record begins.
    for end in ["\n", "\r\n"] {
        let lines = [
            "device,time,v",
            "a,2020-01-01,1",
            "",
            "",
            "a,x,1",
            "\"a\",2020-01-02,\"2\"",
            "a,x,\"two",
            "lines\"",
            "",
            "a,x,1",
            "a,x,\"open",
            "end",
        ];
        for last in ["", end] {
            let text = lines.join(end) + last;
            let mut options = options();
            options.types = vec!["v=utf8".parse().unwrap()];
            let loaded = try_load(text.as_bytes(), &options, OnError::Skip).unwrap();
            let found: Vec<&str> = loaded.reports.iter().map(|r| r.split(": ").next().unwrap()).collect();
            assert_eq!(found, ["a.csv:5", "a.csv:7", "a.csv:10", "a.csv:11"], "{end:?} {:?}", loaded.reports);
            assert_eq!(loaded.rows(), 2);
        }
    }
}
