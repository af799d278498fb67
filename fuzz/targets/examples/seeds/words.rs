//! Owns the first inputs that people and programs write as text: questions, conditions, files to load, settings, listings.

use tidewell::backup::listing::{Entry, Listing, StoreId};

use crate::Folder;

const QUESTIONS: &[&str] = &[
    r#"{"range": {"table": "readings", "devices": ["truck_1"], "start": 0, "end": "1970-01-01T00:01:00Z", "fields": ["velocity"], "where": "velocity > 50", "limit": 10}}"#,
    r#"{"range": {"table": "readings", "start": 0, "end": 90000000000, "damage": "refuse"}}"#,
    r#"{"latest": {"table": "readings", "devices": {"glob": "truck_*"}, "fields": ["velocity"], "as_of": "1970-01-01T00:01:00+02:00"}}"#,
    r#"{"latest": {"table": "readings", "devices": {"attributes": {"fleet": "north"}}}}"#,
    r#"{"downsample": {"table": "readings", "start": 0, "end": 200000000000, "every": "1m", "origin": "1970-01-01T00:00:00Z", "timezone": "Europe/Berlin", "fields": ["velocity"], "aggregates": ["mean", "min", "max", "count", "sum", "first", "last"], "group": "device", "fill": "none"}}"#,
    r#"{"downsample": {"table": "readings", "start": 0, "end": 100000000000, "every": "10s", "group": "all", "fill": "linear"}}"#,
    r#"{"downsample": {"table": "readings", "start": -5, "end": 100000000000, "every": "1mo", "group": "attribute:fleet", "fill": "previous", "aggregates": ["count"]}}"#,
    r#"{"threshold": {"table": "readings", "start": 0, "end": 200000000000, "where": "velocity > 20 AND status = 2", "for": "5s", "max_gap": "1m", "return": "intervals"}}"#,
    r#"{"threshold": {"table": "readings", "start": 0, "end": 200000000000, "where": "open = true", "return": "rows"}}"#,
    r#"{"threshold": {"table": "readings", "start": 0, "end": 200000000000, "where": "driver != 'anna'", "for": "250ms", "return": "devices"}}"#,
    r#"{"watch": {"rules": ["overheat"], "from": "now"}}"#,
];

const CONDITIONS: &[&str] = &[
    "velocity > 95 AND (status = 2 OR status IS NULL) AND NOT driver IN ('anna', 'o''neill')",
    "\"velocity\" BETWEEN 10 AND 20.5 AND open = false",
    "9007199254740993 <= velocity or status <> -1",
    "velocity not between 1e3 and -0.5e-2 and driver is not null",
    "not (not open != true) and status not in (1, 2.5, 3)",
    "driver >= '' AND driver < 'b'",
];

const LINES: &[&str] = &[
    "cpu,host=a,region=eu usage=1.5,count=3i,ok=t,text=\"a \\\"b\\\"\" 1700000000000000000\n",
    "m\\,x,host=a\\ b f=1e3,g=-2i,h=3u,i=false\n# a comment\n\nm v=1\n",
    "w,device=d1 s=\"two\nlines\",t=T 17\nw,device=d2 s=1 18\n",
];

const TABLES: &[&str] = &[
    "time,device,a,b\n2024-05-01T00:00:00Z,t1,1.5,x\n2024-05-01 00:00:01,t1,,y\n",
    "time;device;a;b\n1714521600;t1;1,5;true\n1714521601;t2;-3;false\n",
    "skipped\ntime,device,a\n01.05.2024 10:00:00,\"t,1\",\"a \"\"b\"\"\n",
    "time\tdevice\ta\r\n1714521600000\tt1\t7\r\n",
    "date,time,device,v\n2024-05-01,12:30:00.5,t1,9\n",
];

const SETTINGS: &[&str] = &[
    "data_dir = \"/data\"\nmemory_limit = \"2GiB\"\n[engine]\nshards = 2\nseal_age = \"5m\"\ncompaction = \"off\"\n",
    "[query]\ntimeout = \"90s\"\n[backup]\ndestinations = [\"/b\", \"s3://bucket/x\"]\n[log]\nformat = \"json\"\n",
    "[grants.gateways]\nnorth = [\"truck_*\"]\n",
];

/// Questions, conditions, lines, tables, settings and listings.
pub fn write(folder: &Folder) {
    let texts = |target: &str, choices: &[u8], texts: &[&str]| {
        for (at, text) in texts.iter().enumerate() {
            folder.put(target, &at.to_string(), &[choices, text.as_bytes()].concat());
        }
    };
    texts("question", &[], QUESTIONS);
    texts("condition", &[], CONDITIONS);
    texts("line_protocol", &[0x50], LINES);
    for (at, choices) in [[0, 2], [1, 0x80], [0x0a, 1], [0x20, 6], [0x80, 2]].into_iter().enumerate() {
        folder.put("csv_load", &at.to_string(), &[&choices, TABLES[at].as_bytes()].concat());
    }
    texts("configuration", &[], SETTINGS);
    folder.put("configuration", "example", include_bytes!("../../../../docs/tidewell.example.toml"));
    let entry = Entry { name: "seg/1.seg".into(), key: "data/seg/1.seg.5-1".into(), bytes: 5, crc32c: 9 };
    let store = StoreId { created_ns: 7, shards: 2 };
    let listing = Listing::new("20261121T130000.000000000Z".into(), store, vec![entry], vec!["a tear".into()]);
    folder.put("listing", "0", &listing.encode().1);
}
