//! Owns which devices a request is about; does not read their rows.

use std::sync::Arc;

use globset::{GlobBuilder, GlobMatcher};

use crate::error::QueryError;
use crate::query::ReadableDevices;
use crate::request::DeviceSelection;
use crate::source::{Source, Table};

/// Bytes of the longest device id, and of the longest pattern.
const DEVICE_BYTES_MAX: usize = 256;

/// A selection that was checked and can be resolved.
#[derive(Clone, Debug)]
pub(crate) enum Devices {
    All,
    Ids(Vec<Arc<str>>),
    Glob(GlobMatcher),
    Attributes(Vec<(String, String)>),
}

impl Devices {
    /// Checks `selection` without a look at the data.
    pub fn check(selection: &DeviceSelection) -> Result<Self, QueryError> {
        Ok(match selection {
            DeviceSelection::All => Self::All,
            DeviceSelection::Ids(ids) => {
                if let Some(id) = ids.iter().find(|id| id.is_empty() || id.len() > DEVICE_BYTES_MAX) {
                    let found = format!("an id of {} bytes", id.len());
                    return Err(invalid(format!("ids of 1 to {DEVICE_BYTES_MAX} bytes"), found));
                }
                let mut ids: Vec<Arc<str>> = ids.iter().map(|id| id.as_str().into()).collect();
                ids.sort_unstable();
                ids.dedup();
                Self::Ids(ids)
            }
            DeviceSelection::Glob(pattern) => {
                if pattern.is_empty() || pattern.len() > DEVICE_BYTES_MAX {
                    let found = format!("one of {} bytes", pattern.len());
                    return Err(invalid(format!("a pattern of 1 to {DEVICE_BYTES_MAX} bytes"), found));
                }
                let glob = GlobBuilder::new(pattern).build().map_err(|e| {
                    invalid(
                        "a pattern of `*`, `?`, `[…]` and `{a,b}`".to_owned(),
                        format!("`{pattern}` ({})", e.kind()),
                    )
                })?;
                Self::Glob(glob.compile_matcher())
            }
            DeviceSelection::Attributes(attributes) => {
                Self::Attributes(attributes.iter().map(|(k, v)| (k.clone(), v.clone())).collect())
            }
        })
    }

    /// The devices of `table` that are meant and may be read, sorted by id. A listed id may have no rows.
    pub fn resolve<S: Source>(
        &self,
        source: &S,
        table: &S::Table,
        readable: Option<&ReadableDevices>,
    ) -> Result<Vec<Arc<str>>, QueryError> {
        // A list needs no look at the registry, which may hold a million others.
        let mut devices = match self {
            Self::Ids(ids) => ids.clone(),
            _ => table.devices()?,
        };
        devices.retain(|device| {
            let meant = match self {
                Self::All | Self::Ids(_) => true,
                Self::Glob(glob) => glob.is_match(&**device),
                Self::Attributes(wanted) => {
                    wanted.is_empty()
                        || source.attributes(device).is_some_and(|attributes| {
                            wanted.iter().all(|(name, value)| attributes.get(name) == Some(value))
                        })
                }
            };
            meant && readable.is_none_or(|readable| readable(device))
        });
        Ok(devices)
    }
}

fn invalid(expected: String, found: String) -> QueryError {
    QueryError::Invalid { key: "devices", expected, found }
}
