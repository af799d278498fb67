//! Writes the first inputs of the corpora of fuzzing: `cargo run -p tidewell-fuzz --example seeds FOLDER`.
//!
//! They are what the product itself writes, small: a fuzzer finds its way from there much sooner than from nothing.
//!
//! - `bulk`: messages of Flight; `data`: columns and the files of a data directory; `peers`: frames, lanes, certificates; `words`: what people write

#![allow(clippy::unwrap_used)] // a tool of developers: a panic says all

mod bulk;
mod data;
mod peers;
mod words;

use std::path::PathBuf;

/// Where the corpora go.
struct Folder(PathBuf);

impl Folder {
    fn put(&self, target: &str, name: &str, bytes: &[u8]) {
        let folder = self.0.join(target);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(name), bytes).unwrap();
    }
}

fn main() {
    let folder = Folder(std::env::args().nth(1).expect("the folder to write to").into());
    bulk::write(&folder);
    data::write(&folder);
    peers::write(&folder);
    words::write(&folder);
}
