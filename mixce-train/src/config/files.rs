//! Data files in a configuration.
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// One or more data files: paths, patterns such as `data/*.parquet`, or `-` for standard input.
///
/// In TOML a single name needs no brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataFiles(pub Vec<PathBuf>);

impl DataFiles {
    /// The file names without folders, for a model card.
    #[must_use]
    pub fn file_names(&self) -> String {
        let name = |path: &PathBuf| path.file_name().map(|n| n.to_string_lossy().into_owned());
        self.0.iter().filter_map(name).collect::<Vec<_>>().join(", ")
    }
}

impl From<&str> for DataFiles {
    fn from(path: &str) -> Self {
        Self(vec![path.into()])
    }
}

impl From<&Path> for DataFiles {
    fn from(path: &Path) -> Self {
        Self(vec![path.into()])
    }
}

impl From<PathBuf> for DataFiles {
    fn from(path: PathBuf) -> Self {
        Self(vec![path])
    }
}

impl fmt::Display for DataFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.0.iter().map(|path| path.display().to_string()).collect();
        f.write_str(&names.join(", "))
    }
}

impl Serialize for DataFiles {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [one] => one.serialize(serializer),
            many => many.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for DataFiles {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a path or a list of paths")]
        enum Value {
            One(PathBuf),
            Many(Vec<PathBuf>),
        }
        Ok(Self(match Value::deserialize(deserializer)? {
            Value::One(one) => vec![one],
            Value::Many(many) => many,
        }))
    }
}
