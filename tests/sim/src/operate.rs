//! Owns what goes on inside the node and what operators ask of it: groups, flushes, merges, retention, deletes, tables,
//! backups, restarts.

use std::sync::Arc;

use tidewell_engine::stepped::Step;
use tidewell_engine::storage::{Memory, Storage, write_new_file};
use tidewell_engine::verify::verify;
use tidewell_engine::{BackupView, Delete, Engine, Error, Retention, Skipped};

use crate::check;
use crate::client::TABLES;
use crate::coverage::Phase;
use crate::disk::{Disk, Meanwhile};
use crate::model::{Change, DAY_NS};
use crate::node::{Event, Events};
use crate::random::Random;
use crate::world::{Broken, World};

/// Names that tables get.
const OTHER_NAMES: [&str; 2] = ["t", "w"];

impl World {
    /// One thing that the node does, or is asked for.
    pub(crate) fn operate(&mut self, random: &mut Random) -> Result<(), Broken> {
        let Some(node) = &self.node else { return Ok(()) };
        let engine = Arc::clone(&node.engine);
        let shard = random.below(u64::from(self.plan.shards)) as u32;
        if self.is_poisoned() && random.one_in(3) {
            return self.restart_dead(random);
        }
        match random.below(32) {
            0..10 => self.run(&engine, Step::Group(shard), random),
            10..14 => self.run(&engine, Step::Flush(shard), random),
            14..18 => self.run(&engine, Step::MergeFlushed(shard), random),
            18..20 => self.run(&engine, Step::MergePartition(shard), random),
            20 => self.keep(&engine),
            21..24 => self.flush(&engine),
            24 => {
                let before = self.disk.set_activity(Some(Phase::Merge));
                self.arm_meanwhile(&engine, random, true);
                let done = engine.compact();
                self.disk.meanwhile(None);
                self.disk.set_activity(before);
                self.coverage.count("whole compactions");
                self.tell(|| format!("everything is merged: {}", said(&done)));
                // It ends with a turn of the keeper.
                self.changed(done.map(drop), vec![Change::Keep { now_ns: self.now_ns() }])
            }
            25 => self.delete(&engine, random),
            26 => match random.below(4) {
                0 => self.retention(&engine, random),
                1 => self.change_table(&engine, random),
                _ => Ok(()),
            },
            27 | 28 => self.backup(&engine, random),
            29 => match random.below(3) {
                0 => self.restart(),
                1 => {
                    self.tell(|| "the node is killed".to_owned());
                    self.die(random, Phase::Idle)
                }
                _ => Ok(()),
            },
            _ => self.compare("in between"),
        }
    }

    pub(crate) fn is_poisoned(&self) -> bool {
        let shards = self.node.as_ref().map(|node| node.engine.figures()).unwrap_or_default();
        self.stopped || shards.iter().any(|figures| figures.poisoned)
    }

    fn run(&mut self, engine: &Arc<Engine>, step: Step, random: &mut Random) -> Result<(), Broken> {
        let merge = matches!(step, Step::MergeFlushed(_) | Step::MergePartition(_));
        let before = self.disk.set_activity(merge.then_some(Phase::Merge));
        if merge || matches!(step, Step::Flush(_)) && random.one_in(4) {
            self.arm_meanwhile(engine, random, merge);
        }
        let done = engine.step(step);
        self.disk.meanwhile(None);
        self.disk.set_activity(before);
        match done {
            Ok(true) => {
                self.tell(|| format!("{step:?}"));
                self.coverage.count(match step {
                    Step::Group(_) => "groups",
                    Step::Flush(_) => "flushes",
                    Step::MergeFlushed(_) => "merges of flushed",
                    Step::MergePartition(_) => "merges of days",
                    Step::Keep => "turns of the keeper",
                });
            }
            Ok(false) => {}
            Err(error) => {
                self.tell(|| format!("{step:?} fails: {error}"));
                self.must_be_planned(&error)?;
            }
        }
        Ok(())
    }

    /// A failure for which nobody can be blamed is one.
    fn must_be_planned(&mut self, error: &Error) -> Result<(), Broken> {
        // A failure of the manifest's own file stops it; it says so to all who come later.
        self.stopped |= matches!(error, Error::Io { path, .. } if path.starts_with("manifest/"));
        self.stopped |= error.to_string().contains("the manifest stopped");
        let planned = error.is_disk_full()
            || matches!(error, Error::Io { .. } | Error::Poisoned { .. })
            || self.disk.halted().is_some()
            || self.is_poisoned();
        if planned { Ok(()) } else { Err(format!("a failure without a fault: {error}")) }
    }

    /// Something that happens in the middle of a merge or a flush. A delete waits for flushes, so it may not come in one.
    fn arm_meanwhile(&self, engine: &Arc<Engine>, random: &mut Random, may_delete: bool) {
        if random.one_in(3) {
            return;
        }
        let (engine, disk, events) = (Arc::clone(engine), self.disk.clone(), Arc::clone(&self.events));
        let shards = self.plan.shards;
        let delete = (random.one_in(4) && may_delete).then(|| self.some_delete(random));
        let what: Meanwhile = Box::new(move || {
            let before = disk.set_activity(None);
            for shard in 0..shards {
                // A merge is not begun here; groups and flushes do not fail by themselves.
                let _ = engine.step(Step::Group(shard));
                let _ = engine.step(Step::Flush(shard));
            }
            if let Some(delete) = delete {
                carry_out(&engine, &disk, &events, &delete);
            }
            disk.set_activity(before);
        });
        self.disk.meanwhile(Some((random.below(6) as u32, what)));
    }

    pub(crate) fn step_shards(&mut self) {
        let Some(node) = &self.node else { return };
        for shard in 0..self.plan.shards {
            let _ = node.engine.step(Step::Group(shard));
            let _ = node.engine.step(Step::Flush(shard));
        }
    }

    /// Takes note of an operation that makes `changes`, if it worked.
    fn changed(&mut self, done: Result<(), Error>, changes: Vec<Change>) -> Result<(), Broken> {
        self.hear_of_events()?;
        match done {
            Ok(()) => self.resolve_with(&changes, "after an operation"),
            Err(error) => {
                self.uncertain.extend(changes);
                self.must_be_planned(&error)
            }
        }
    }

    fn flush(&mut self, engine: &Arc<Engine>) -> Result<(), Broken> {
        let done = engine.flush();
        self.coverage.count("asked flushes");
        self.tell(|| format!("everything is flushed: {}", said(&done)));
        self.changed(done, Vec::new())
    }

    fn keep(&mut self, engine: &Arc<Engine>) -> Result<(), Broken> {
        let before = self.disk.set_activity(Some(Phase::Retention));
        let done = engine.step(Step::Keep);
        self.disk.set_activity(before);
        self.coverage.count("turns of the keeper");
        self.tell(|| format!("retention is carried out: {}", said(&done)));
        self.changed(done.map(drop), vec![Change::Keep { now_ns: self.now_ns() }])
    }

    fn some_delete(&self, random: &mut Random) -> Change {
        let client = random.below(self.clients.len() as u64) as usize;
        let device = random.pick(self.clients[client].devices()).clone();
        let table = random.one_in(2).then(|| (*random.pick(&TABLES)).to_owned());
        let range = (!random.one_in(4)).then(|| {
            let start = self.now_ns() - random.below(100) as i64 * 3_600_000_000_000;
            (start, start + (1 + random.below(30)) as i64 * 3_600_000_000_000)
        });
        Change::Delete { table, device, range }
    }

    fn delete(&mut self, engine: &Arc<Engine>, random: &mut Random) -> Result<(), Broken> {
        let change = self.some_delete(random);
        self.tell(|| format!("{change:?}"));
        carry_out(engine, &self.disk, &self.events, &change);
        self.coverage.count("deletes");
        Ok(())
    }

    fn retention(&mut self, engine: &Arc<Engine>, random: &mut Random) -> Result<(), Broken> {
        let table = (*random.pick(&TABLES)).to_owned();
        // The policy of a table that only the log knows cannot be looked up after a restart.
        let known = engine.tables().into_iter().any(|of| *of.schema.name == *table && of.segments > 0);
        let kept = self.model.tables.get(&table).and_then(|table| table.kept_days);
        let days = 1 + random.below(4);
        if !known || kept.is_some_and(|kept| days > kept) {
            return Ok(());
        }
        let retention = Retention { raw_ns: Some(days * DAY_NS as u64), ..Retention::default() };
        let before = self.disk.set_activity(Some(Phase::Retention));
        let done = engine.set_retention(&table, retention);
        self.disk.set_activity(before);
        self.coverage.count("policies");
        self.tell(|| format!("{table} keeps {days} days: {}", said(&done)));
        let policy = Change::Retention { table, days: Some(days) };
        self.changed(done, vec![policy, Change::Keep { now_ns: self.now_ns() }])
    }

    fn change_table(&mut self, engine: &Arc<Engine>, random: &mut Random) -> Result<(), Broken> {
        let tables: Vec<String> = engine.tables().iter().map(|table| table.schema.name.to_string()).collect();
        if tables.is_empty() {
            return Ok(());
        }
        let table = random.pick(&tables).clone();
        let to = OTHER_NAMES.iter().find(|name| !tables.iter().any(|table| table == *name));
        let before = self.disk.set_activity(Some(Phase::Tables));
        let (done, change) = match to {
            Some(to) if random.one_in(2) => {
                (engine.rename_table(&table, to), Change::Rename { from: table, to: (*to).to_owned() })
            }
            _ => (engine.drop_table(&table), Change::Drop { table }),
        };
        self.disk.set_activity(before);
        self.coverage.count("changes of tables");
        self.tell(|| format!("{change:?}: {}", said(&done)));
        self.changed(done, vec![change])
    }

    /// Begins a backup, or ends the one that was begun: restored, it has the rows of the moment when it was begun.
    fn backup(&mut self, engine: &Arc<Engine>, random: &mut Random) -> Result<(), Broken> {
        let Some((view, model)) = self.backup.take() else {
            if random.one_in(2) || self.is_poisoned() {
                return Ok(());
            }
            self.compare("before a backup")?;
            let view = match engine.backup_view() {
                Ok(view) => view,
                Err(error) => return self.must_be_planned(&error),
            };
            self.hear_of_events()?;
            self.tell(|| "a backup begins".to_owned());
            self.backup = Some((view, self.model.clone()));
            return Ok(());
        };
        self.coverage.count("backups");
        self.tell(|| "the backup is restored elsewhere".to_owned());
        let memory = restore(view).map_err(|error| format!("backup: {error}"))?;
        let (engine, report) = Engine::open_stepped(Arc::new(memory), self.config(), Arc::clone(&self.clock) as _)
            .map_err(|error| format!("the backup does not open: {error}"))?;
        if !report.findings().is_empty() {
            return Err(format!("the backup is damaged: {:?}", report.findings()));
        }
        check::rows(&engine.snapshot(), &model).map_err(|error| format!("the backup: {error}"))
    }

    /// Ends the node in order and opens it again.
    pub(crate) fn restart(&mut self) -> Result<(), Broken> {
        let Some(node) = &self.node else { return Ok(()) };
        let done = node.engine.close();
        self.tell(|| format!("the node is closed: {}", said(&done)));
        self.coverage.count("closes");
        self.hear_of_events()?;
        let left = self.disk.memory().kill();
        self.take_down(left);
        self.open()
    }

    /// A node whose shard has stopped is started again, one way or another.
    fn restart_dead(&mut self, random: &mut Random) -> Result<(), Broken> {
        self.coverage.count("restarts of stopped shards");
        if random.one_in(2) { self.restart() } else { self.die(random, Phase::Idle) }
    }

    /// What is checked once, when all is at rest.
    pub(crate) fn last_checks(&mut self) -> Result<(), Broken> {
        let Some(node) = &self.node else { return Err("there is no node".into()) };
        let engine = Arc::clone(&node.engine);
        let mut last = Random::new(1);
        self.questions(&mut last)?;
        engine.flush().map_err(|error| format!("the last flush: {error}"))?;
        self.compare("after the last flush")?;
        self.questions(&mut last)?;
        engine.compact().map_err(|error| format!("the last compaction: {error}"))?;
        self.apply(&Change::Keep { now_ns: self.now_ns() });
        self.compare("after the last compaction")?;
        self.questions(&mut last)?;
        drop(engine);
        self.rot(&mut last)?;
        let left = self.disk.memory().crash(0);
        self.take_down(left);
        let storage: Arc<dyn Storage> = Arc::new(self.disk.clone());
        let report = verify(&storage).map_err(|error| format!("verify: {error}"))?;
        if !report.damage.is_empty() {
            return Err(format!("verify finds damage on a disk without rot: {:?}", report.damage));
        }
        self.open()?;
        self.compare("after the last loss of power")
    }

    /// On copies of the disk some bits turn: whatever is missing or different then must be reported.
    fn rot(&mut self, random: &mut Random) -> Result<(), Broken> {
        for _ in 0..4 {
            let copy = self.disk.memory().crash(0);
            let mut files = Vec::new();
            for folder in ["seg", "log", "heads", "manifest"] {
                let names = copy.list(folder).map_err(|error| error.to_string())?;
                files.extend(names.into_iter().map(|name| format!("{folder}/{name}")));
            }
            if files.is_empty() {
                return Ok(());
            }
            let name = random.pick(&files).clone();
            let place = random.number();
            copy.damage(&name, |bytes| {
                if !bytes.is_empty() {
                    let bit = place % (bytes.len() as u64 * 8);
                    bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
                }
            });
            self.coverage.count("rotten bits");
            let (config, clock) = (self.config(), Arc::clone(&self.clock) as _);
            let Ok((engine, report)) = Engine::open_stepped(Arc::new(copy), config, clock) else {
                self.coverage.count("rot that keeps a node from opening");
                continue;
            };
            let skipped = Arc::new(Skipped::default());
            let snapshot = engine.snapshot().going_without(Arc::clone(&skipped));
            let Err(differs) = check::rows(&snapshot, &self.model) else { continue };
            self.coverage.count("rot that costs rows");
            if skipped.is_empty() && report.findings().is_empty() {
                return Err(format!("a bit of {name} turned, and nobody says so: {differs}"));
            }
        }
        Ok(())
    }

    /// Asks questions of all kinds, and compares the answers with those of a node that has the same rows in memory.
    pub(crate) fn questions(&mut self, random: &mut Random) -> Result<(), Broken> {
        self.hear_of_events()?;
        self.resolve("before questions")?;
        let Some(node) = &self.node else { return Ok(()) };
        let clock: Arc<dyn tidewell_engine::clock::Clock> = Arc::clone(&self.clock) as _;
        let reference = check::reference(&self.model, &clock);
        let (found, expected) = (node.engine.snapshot(), reference.snapshot());
        let table = *random.pick(&TABLES);
        let now = self.now_ns();
        let (start, end) = (now - 5 * DAY_NS, now + DAY_NS);
        let bound = random.below(4_000) as f64 / 4.0 - 500.0;
        let every = *random.pick(&["1m", "10m", "1h", "1d"]);
        let group = *random.pick(&["device", "all"]);
        let aggregates = r#"["mean","min","max","count","sum","first","last"]"#;
        let requests = [
            format!(
                r#"{{"range":{{"table":"{table}","start":{start},"end":{end},"fields":["n","v"],"where":"v > {bound}"}}}}"#
            ),
            format!(r#"{{"latest":{{"table":"{table}","fields":["n","v"]}}}}"#),
            format!(
                r#"{{"downsample":{{"table":"{table}","start":{start},"end":{end},"every":"{every}","fields":["v","n"],"aggregates":{aggregates},"group":"{group}"}}}}"#
            ),
            format!(
                r#"{{"threshold":{{"table":"{table}","start":{start},"end":{end},"where":"v > {bound}","max_gap":"10m"}}}}"#
            ),
        ];
        for request in &requests {
            let rows = check::answers(&found, &expected, request)?;
            self.coverage.count("questions");
            self.coverage.add("rows of answers", rows as u64);
        }
        Ok(())
    }
}

/// Deletes rows; the events tell whether.
fn carry_out(engine: &Engine, disk: &Disk, events: &Events, change: &Change) {
    let Change::Delete { table, device, range } = change else { return };
    let delete = Delete { table: table.as_deref().map(Into::into), device: device.as_str().into(), range: *range };
    let before = disk.set_activity(Some(Phase::Delete));
    let done = engine.delete(&[delete]);
    disk.set_activity(before);
    events.lock().push_back(match done {
        Ok(()) => Event::Changed(change.clone()),
        // There is no such table: nothing happened.
        Err(Error::Invalid(message)) if message.starts_with("there is no table") => return,
        Err(_) => Event::Uncertain(change.clone()),
    });
}

/// What a restore does.
fn restore(mut view: BackupView) -> Result<Memory, Error> {
    let memory = Memory::new();
    let write = |name: &str, bytes: &[u8]| write_new_file(&memory, name, bytes).map_err(Error::io("write", name));
    for name in std::mem::take(&mut view.files) {
        let file = view.open(&name)?;
        let mut bytes = vec![0; file.len().map_err(Error::io("read", &*name))? as usize];
        file.read_at(0, &mut bytes).map_err(Error::io("read", &*name))?;
        write(&name, &bytes)?;
    }
    for file in &view.small {
        write(&file.name, &file.bytes)?;
    }
    view.take_logs(|file| write(&file.name, &file.bytes))?;
    Ok(memory)
}

fn said<T>(done: &Result<T, Error>) -> String {
    match done {
        Ok(_) => "done".to_owned(),
        Err(error) => error.to_string(),
    }
}
