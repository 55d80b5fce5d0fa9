//! What somebody may have meant.

use strsim::damerau_levenshtein;

use super::keys::{AnyKey, KEYS};

/// The setting most like an unknown one; without a name, one of the section most like an unknown one. None if
/// nothing is like it.
pub(super) fn nearest_key(section: &str, name: Option<&str>) -> Option<&'static dyn AnyKey> {
    KEYS.iter()
        .map(|key| (distance(*key, section, name), *key))
        .filter_map(|(distance, key)| Some((distance?, key)))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, key)| key as &dyn AnyKey)
}

/// The variable most like an unknown one.
pub(super) fn nearest_variable(name: &str) -> Option<&'static str> {
    KEYS.iter()
        .filter_map(|key| Some((alike(key.variable(), name)?, key.variable())))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, variable)| variable)
}

/// Small for what is alike; a name in the right section comes before the same one elsewhere.
fn distance(key: &dyn AnyKey, section: &str, name: Option<&str>) -> Option<usize> {
    let of_sections = alike(key.section(), section);
    let Some(name) = name else {
        return of_sections;
    };
    let of_names = alike(key.name(), name)?;
    match of_sections {
        Some(of_sections) => Some(of_sections + of_names),
        // Far away: only a name that is nearly right counts.
        None if of_names <= 1 => Some(100 + of_names),
        None => None,
    }
}

/// The number of slips between two names, if they are few for their length. Case does not count; the start
/// of a name is nearly the name.
fn alike(known: &str, given: &str) -> Option<usize> {
    let (known, given) = (known.to_lowercase(), given.to_lowercase());
    if given.chars().count() > 2 && known.starts_with(&given) {
        return Some(usize::from(known != given));
    }
    let slips = damerau_levenshtein(&known, &given);
    let few = known.chars().count().max(given.chars().count()) / 3;
    (slips <= few.max(1)).then_some(slips)
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
