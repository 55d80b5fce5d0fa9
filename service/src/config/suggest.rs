//! What somebody may have meant.

use strsim::jaro_winkler;

use super::keys::{AnyKey, KEYS};

/// Names less alike than this have nothing to do with each other; 1 is the same name.
const ALIKE: f64 = 0.85;

/// The setting most like an unknown one; without a name, one of the section most like an unknown one. None if
/// nothing is like it.
pub(super) fn nearest_key(section: &str, name: Option<&str>) -> Option<&'static dyn AnyKey> {
    KEYS.iter()
        .filter_map(|key| {
            let of_sections = alike(key.section(), section);
            let likeness = match name {
                None => of_sections?,
                // A name in the right section comes before the same one elsewhere.
                Some(name) => alike(key.name(), name)? + of_sections.unwrap_or(0.0),
            };
            Some((likeness, *key))
        })
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map(|(_, key)| key as &dyn AnyKey)
}

/// The variable most like an unknown one.
pub(super) fn nearest_variable(name: &str) -> Option<&'static str> {
    KEYS.iter()
        .filter_map(|key| Some((alike(key.variable(), name)?, key.variable())))
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map(|(_, variable)| variable)
}

/// How alike two names are, if they are. Case does not count.
fn alike(known: &str, given: &str) -> Option<f64> {
    let likeness = jaro_winkler(&known.to_lowercase(), &given.to_lowercase());
    (likeness >= ALIKE).then_some(likeness)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_found() {
        for (section, name, wanted) in [
            ("S3", "acess_key", "S3.access_key"),
            ("S3", "Access_Key", "S3.access_key"),
            ("s3", "url", "S3.url"),
            (
                "HTCondor",
                "use_s3_external_url",
                "HTCondor.use_S3_external_url",
            ),
            ("Kafka", "topic", "Kafka.topic_jobs"),
            ("Jobs", "container_log", "Jobs.container_s3_log_dir"),
            ("S3", "mongo_host", "MongoDB.mongo_host"),
            ("", "container_s3_log_dir", "Jobs.container_s3_log_dir"),
        ] {
            let found = nearest_key(section, Some(name)).map(AnyKey::path);
            assert_eq!(found.as_deref(), Some(wanted), "{section}.{name}");
        }
        let section = |name| nearest_key(name, None).map(|key| key.section());
        assert_eq!(section("MongoDb"), Some("MongoDB"));
        assert_eq!(section("Autentication"), Some("Authentication"));
        assert_eq!(section("Zebra"), None);
        assert!(nearest_key("S3", Some("zebra_crossing")).is_none());
        assert_eq!(nearest_variable("KBCTS_S3_ULR"), Some("KBCTS_S3_URL"));
    }
}
