//! Owns the search for files that nothing names: remains of a crash between writing a file and its edit, or between an
//! edit and the removal of a file; does not remove them.

use super::ManifestState;
use crate::error::{Error, Result};
use crate::segment::segment_name;
use crate::storage::Storage;

/// Names (relative to the data directory) of segments, heads files and temporary files that `state` does not name. Safe
/// to remove while no segment is being written.
///
/// # Errors
/// When a folder cannot be listed.
pub fn orphans(storage: &dyn Storage, state: &ManifestState) -> Result<Vec<String>> {
    let mut orphans = Vec::new();
    let heads = state.heads_names();
    for (dir, suffix) in [("seg", ".seg"), ("heads", ".heads"), ("manifest", "")] {
        for name in storage.list(dir).map_err(Error::io("list", dir))? {
            let path = format!("{dir}/{name}");
            let named = match dir {
                "seg" => crate::segment::segment_id(&name)
                    .is_some_and(|id| state.segments.contains_key(&id) && segment_name(id) == path),
                "heads" => heads.contains(&path),
                _ => true,
            };
            // Files that are not ours (somebody's notes) are left alone.
            if name.ends_with(".tmp") || (!named && name.ends_with(suffix)) {
                orphans.push(path);
            }
        }
    }
    Ok(orphans)
}
