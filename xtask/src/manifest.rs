//! The little of `Cargo.toml` that is read here: line by line, no TOML library to compile.

/// A feature of a crate.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Feature {
    pub(crate) name: String,
    /// The comment lines right above it, joined.
    pub(crate) description: String,
    pub(crate) enables: Vec<String>,
}

impl Feature {
    /// Whether it brings in the optional dependency `package`, itself or through others.
    pub(crate) fn enables_package(&self, package: &str, all: &[Self]) -> bool {
        let mut seen = vec![self.name.as_str()];
        let mut open = vec![self];
        while let Some(feature) = open.pop() {
            for enabled in &feature.enables {
                let target = enabled.strip_prefix("dep:").unwrap_or(enabled);
                // `package?/feature` enables nothing by itself and so does not match.
                if target.split('/').next() == Some(package) {
                    return true;
                }
                let next = all.iter().find(|other| other.name == *enabled);
                if let Some(next) = next.filter(|next| !seen.contains(&next.name.as_str())) {
                    seen.push(&next.name);
                    open.push(next);
                }
            }
        }
        false
    }
}

/// The `[features]` table, in the order of the file.
pub(crate) fn features(manifest: &str) -> Vec<Feature> {
    entries(manifest, "features")
        .into_iter()
        .map(|entry| Feature {
            enables: strings(&entry.value),
            name: entry.key,
            description: entry.comment,
        })
        .collect()
}

/// The name in `[package]`.
pub(crate) fn package_name(manifest: &str) -> Option<String> {
    let mut entries = entries(manifest, "package").into_iter();
    let name = entries.find(|entry| entry.key == "name")?;
    strings(&name.value).into_iter().next()
}

/// The folders in `members` of `[workspace]`.
pub(crate) fn members(manifest: &str) -> Vec<String> {
    let mut entries = entries(manifest, "workspace").into_iter();
    entries.find(|entry| entry.key == "members").map_or_else(Vec::new, |it| strings(&it.value))
}

struct Entry {
    comment: String,
    key: String,
    value: String,
}

/// The `key = value` pairs of one table; a value in brackets may span lines.
fn entries(manifest: &str, table: &str) -> Vec<Entry> {
    let header = format!("[{table}]");
    let body = manifest.lines().map(str::trim).skip_while(|line| code(line) != header).skip(1);
    let mut entries: Vec<Entry> = Vec::new();
    let mut comment: Vec<&str> = Vec::new();
    let mut unclosed = false;
    for line in body {
        if unclosed {
            if let Some(entry) = entries.last_mut() {
                entry.value.push_str(code(line));
            }
            unclosed = !code(line).ends_with(']');
        } else if line.starts_with('[') {
            break;
        } else if let Some(text) = line.strip_prefix('#') {
            comment.push(text.trim());
        } else if let Some((key, value)) = code(line).split_once('=') {
            let (key, value) = (key.trim().trim_matches('"'), value.trim());
            unclosed = value.starts_with('[') && !value.ends_with(']');
            entries.push(Entry {
                comment: comment.join(" "),
                key: key.to_owned(),
                value: value.to_owned(),
            });
            comment.clear();
        } else {
            comment.clear();
        }
    }
    entries
}

/// A line without its comment.
fn code(line: &str) -> &str {
    let mut quoted = false;
    let comment = line.find(|c| {
        quoted ^= c == '"';
        c == '#' && !quoted
    });
    comment.map_or(line, |at| &line[..at]).trim()
}

/// The texts between quotes.
fn strings(value: &str) -> Vec<String> {
    value.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = r#"
[package]
name = "sample" # not "other"
version = "1.0.0"

[features]
# A heading, apart from what follows.

# On by default.
default = ["memory"]
# In one process;
# needs nothing.
memory = ["dep:fabric-memory"] # trailing ]
plain = []
# Two backends.
all-portable = [
    "memory",  # the first
    "nats",
]
nats = ["dep:fabric-nats", "looped"]
looped = ["nats"]

[dependencies]
other = "1"
"#;

    fn feature<'a>(all: &'a [Feature], name: &str) -> &'a Feature {
        all.iter().find(|feature| feature.name == name).unwrap()
    }

    #[test]
    fn features_are_read_with_the_comment_above() {
        let features = features(MANIFEST);
        let names: Vec<&str> = features.iter().map(|feature| feature.name.as_str()).collect();
        assert_eq!(names, ["default", "memory", "plain", "all-portable", "nats", "looped"]);
        assert_eq!(feature(&features, "default").description, "On by default.");
        assert_eq!(feature(&features, "memory").description, "In one process; needs nothing.");
        assert_eq!(feature(&features, "memory").enables, ["dep:fabric-memory"]);
        assert_eq!(feature(&features, "plain").description, "");
        assert_eq!(feature(&features, "all-portable").enables, ["memory", "nats"]);
    }

    #[test]
    fn packages_are_found_through_other_features() {
        let features = features(MANIFEST);
        assert!(feature(&features, "all-portable").enables_package("fabric-nats", &features));
        assert!(!feature(&features, "looped").enables_package("fabric-redis", &features));
        assert!(!feature(&features, "plain").enables_package("fabric-memory", &features));
    }

    #[test]
    fn a_file_without_features_has_none() {
        assert_eq!(features("[package]\nname = \"x\"\n"), []);
        assert_eq!(features("[features]\n"), []);
    }

    #[test]
    fn name_and_members_are_found() {
        assert_eq!(package_name(MANIFEST).as_deref(), Some("sample"));
        assert_eq!(package_name("[workspace]"), None);
        assert_eq!(members("[workspace]\nmembers = [\"a\", \"b/c\"]\n"), ["a", "b/c"]);
        assert_eq!(members("[package]\n"), [""; 0]);
    }
}
