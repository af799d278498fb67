//! Owns the search for files that nothing names: remains of a crash between writing a file and its edit, or between an
//! edit and the removal of a file; does not remove them.

use std::collections::HashSet;

use super::ManifestState;
use crate::error::{Error, Result};
use crate::segment::segment_name;
use crate::storage::Storage;
use crate::summary::{summary_id, summary_name};

/// Names (relative to the data directory) of segments, summaries, heads files and temporary files that `state` does not name. Safe
/// to remove while no segment is being written.
///
/// # Errors
/// When a folder cannot be listed.
pub fn orphans(storage: &dyn Storage, state: &ManifestState) -> Result<Vec<String>> {
    let mut orphans = Vec::new();
    let heads = state.heads_names();
    let summaries: HashSet<u64> = state.summaries.keys().map(|(_, id)| *id).collect();
    for (dir, suffix) in [("seg", ".seg"), ("seg", ".sum"), ("heads", ".heads"), ("manifest", "")] {
        for name in storage.list(dir).map_err(Error::io("list", dir))? {
            let path = format!("{dir}/{name}");
            let named = match dir {
                "seg" if suffix == ".sum" => {
                    summary_id(&name).is_some_and(|id| summaries.contains(&id) && summary_name(id) == path)
                }
                "seg" => crate::segment::segment_id(&name)
                    .is_some_and(|id| state.segments.contains_key(&id) && segment_name(id) == path),
                "heads" => heads.contains(&path),
                _ => true,
            };
            // Files that are not ours (somebody's notes) are left alone.
            let temporary = name.ends_with(".tmp") && suffix != ".sum";
            if temporary || (!named && name.ends_with(suffix)) {
                orphans.push(path);
            }
        }
    }
    Ok(orphans)
}
