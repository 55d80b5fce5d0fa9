//! Where each input file lands in the input directory (contract service.md, section 3.5).
//!
//! Places are given to **all** files of the job at once, whichever container they go to, so that two
//! files that collide are found whatever the split. The result can be joined to a directory without
//! ever leaving it: a path with a `.`, `..` or empty segment is refused, not normalised, so two
//! different places also never name the same file.

use std::collections::HashMap;
use std::fmt;

use serde::Serialize;

use crate::error_code::ErrorCode;
use crate::job_input::InputFiles;
use crate::s3_path::{UnsafeSegment, check_segments};

/// A path below some directory: one or more `/`-separated segments, none of them empty, `.` or
/// `..`, none with a NUL. Joined to a directory it names something inside it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct RelativePath(String);

impl RelativePath {
    /// Checks every segment.
    ///
    /// # Errors
    ///
    /// [`UnsafeSegment`] names the first segment that cannot be used.
    pub fn new(path: &str) -> Result<Self, UnsafeSegment> {
        check_segments(path)?;
        Ok(Self(path.to_owned()))
    }

    /// The path as text, without a `/` at either end.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last segment.
    #[must_use]
    pub fn file_name(&self) -> &str {
        self.0
            .rsplit_once('/')
            .map_or(self.0.as_str(), |(_, name)| name)
    }

    /// The path below an absolute directory, with one `/` between them: a file's place in the
    /// container, where `directory` is the mount point.
    #[must_use]
    pub fn below(&self, directory: &str) -> String {
        let slash = if directory.ends_with('/') { "" } else { "/" };
        format!("{directory}{slash}{self}")
    }
}

impl fmt::Display for RelativePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<std::path::Path> for RelativePath {
    fn as_ref(&self) -> &std::path::Path {
        self.0.as_ref()
    }
}

/// The input files cannot all be given a place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileLocationError {
    /// An S3 path with a `.`, `..` or empty segment.
    #[error("input file {file:?} {source}")]
    UnsafePath {
        /// The file's index among the job's input files.
        index: usize,
        /// Its S3 path.
        file: String,
        /// The segment.
        source: UnsafeSegment,
    },
    /// Two files would land on the same place.
    #[error(
        "input files {file:?} and {other_file:?} would both be placed at {:?} in the \
         input directory; add the part of their paths that differs to what is kept by giving a \
         shorter input root, or rename one", location.as_str()
    )]
    SamePlace {
        /// The later file's index.
        index: usize,
        /// The later file's S3 path.
        file: String,
        /// The earlier file's index.
        other_index: usize,
        /// The earlier file's S3 path.
        other_file: String,
        /// The place of both.
        location: RelativePath,
    },
    /// One file's place would be a directory of another's.
    #[error(
        "input file {file:?} would be placed at {:?} in the input directory, which must \
         be a directory for input file {other_file:?}; use other input roots or rename one", location.as_str()
    )]
    FileIsDirectory {
        /// Index of the file whose place is a directory of the other's.
        index: usize,
        /// Its S3 path.
        file: String,
        /// The other file's index.
        other_index: usize,
        /// The other file's S3 path.
        other_file: String,
        /// The place of the first.
        location: RelativePath,
    },
}

impl FileLocationError {
    /// The application code of a submission with this fault.
    #[must_use]
    pub const fn error_code(&self) -> ErrorCode {
        match self {
            Self::UnsafePath { .. } => ErrorCode::IllegalS3Path,
            Self::SamePlace { .. } | Self::FileIsDirectory { .. } => ErrorCode::IllegalParameter,
        }
    }

    /// A stable label: `illegal_segment` or `collision`.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::UnsafePath { .. } => "illegal_segment",
            Self::SamePlace { .. } | Self::FileIsDirectory { .. } => "collision",
        }
    }
}

/// The place of every input file in the input directory, in the files' order.
///
/// Among the roots that are a proper prefix of a file's path, by whole segments, the longest is cut
/// off with its `/`; the root `""` keeps the whole path, bucket included. Without such a root only
/// the last segment is kept. A `/` at the end of a root is ignored. Takes time linear in the length of
/// all paths.
///
/// # Errors
///
/// The first file with an unsafe path; else the first two files at the same place; else the first
/// two of which one is a directory of the other.
pub fn file_locations(
    files: &InputFiles,
    input_roots: &[String],
) -> Result<Vec<RelativePath>, FileLocationError> {
    let paths: Vec<&str> = match files {
        InputFiles::Paths(paths) => paths.iter().map(String::as_str).collect(),
        InputFiles::Files(files) => files.iter().map(|file| file.file.as_str()).collect(),
    };
    let roots = Roots::new(input_roots);
    let locations = paths
        .iter()
        .enumerate()
        .map(|(index, path)| {
            check_segments(path).map_err(|source| FileLocationError::UnsafePath {
                index,
                file: (*path).to_owned(),
                source,
            })?;
            Ok(RelativePath(roots.cut(path).to_owned()))
        })
        .collect::<Result<Vec<_>, _>>()?;
    check_collisions(&paths, &locations)?;
    Ok(locations)
}

/// A tree of path segments. Each node may carry a value.
#[derive(Debug)]
struct SegmentTree<'a, T> {
    children: HashMap<(usize, &'a str), usize>,
    values: Vec<Option<T>>,
}

impl<'a, T: Clone> SegmentTree<'a, T> {
    const TOP: usize = 0;

    fn new() -> Self {
        Self {
            children: HashMap::new(),
            values: vec![None],
        }
    }

    fn child(&self, node: usize, segment: &'a str) -> Option<usize> {
        self.children.get(&(node, segment)).copied()
    }

    /// The child, made if it was not there.
    fn grow(&mut self, node: usize, segment: &'a str) -> usize {
        let next = self.values.len();
        let child = *self.children.entry((node, segment)).or_insert(next);
        if child == next {
            self.values.push(None);
        }
        child
    }

    fn value(&self, node: usize) -> Option<T> {
        self.values.get(node).cloned().flatten()
    }

    fn set(&mut self, node: usize, value: T) {
        if let Some(slot) = self.values.get_mut(node) {
            *slot = Some(value);
        }
    }
}

/// The input roots, arranged so that a file's longest root is found in one walk along its path.
struct Roots<'a>(SegmentTree<'a, ()>);

impl<'a> Roots<'a> {
    fn new(input_roots: &'a [String]) -> Self {
        let mut tree = SegmentTree::new();
        for root in input_roots {
            let root = root.strip_suffix('/').unwrap_or(root);
            let node = if root.is_empty() {
                SegmentTree::<()>::TOP
            } else {
                root.split('/')
                    .fold(SegmentTree::<()>::TOP, |node, part| tree.grow(node, part))
            };
            tree.set(node, ());
        }
        Self(tree)
    }

    /// What is left of the path after its longest root, or its last segment.
    fn cut(&self, path: &'a str) -> &'a str {
        let mut kept = self.0.value(SegmentTree::<()>::TOP).map(|()| path);
        let mut node = SegmentTree::<()>::TOP;
        let mut rest = path;
        while let Some((segment, after)) = rest.split_once('/') {
            let Some(child) = self.0.child(node, segment) else {
                break;
            };
            if self.0.value(child).is_some() {
                kept = Some(after);
            }
            (node, rest) = (child, after);
        }
        kept.unwrap_or_else(|| path.rsplit_once('/').map_or(path, |(_, name)| name))
    }
}

/// What a node of the tree of places stands for.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// This file.
    File(usize),
    /// A directory that this file needs.
    Directory(usize),
}

fn check_collisions(paths: &[&str], locations: &[RelativePath]) -> Result<(), FileLocationError> {
    let name = |index: usize| {
        paths
            .get(index)
            .map_or_else(String::new, ToString::to_string)
    };
    let mut tree: SegmentTree<'_, Place> = SegmentTree::new();
    // A clash of file and directory is held back: two files at one place are reported first.
    let mut held: Option<FileLocationError> = None;
    for (index, location) in locations.iter().enumerate() {
        let mut node = SegmentTree::<Place>::TOP;
        let mut walked = 0;
        let (directories, file_name) = location
            .as_str()
            .rsplit_once('/')
            .map_or((None, location.as_str()), |(d, name)| (Some(d), name));
        for segment in directories
            .into_iter()
            .flat_map(|directories| directories.split('/'))
        {
            node = tree.grow(node, segment);
            walked += segment.len() + 1;
            match tree.value(node) {
                Some(Place::File(other)) => {
                    held.get_or_insert_with(|| FileLocationError::FileIsDirectory {
                        index: other,
                        file: name(other),
                        other_index: index,
                        other_file: name(index),
                        location: RelativePath(
                            location
                                .as_str()
                                .get(..walked - 1)
                                .unwrap_or_default()
                                .to_owned(),
                        ),
                    });
                }
                Some(Place::Directory(_)) => {}
                None => tree.set(node, Place::Directory(index)),
            }
        }
        node = tree.grow(node, file_name);
        match tree.value(node) {
            Some(Place::File(other)) => {
                return Err(FileLocationError::SamePlace {
                    index,
                    file: name(index),
                    other_index: other,
                    other_file: name(other),
                    location: location.clone(),
                });
            }
            Some(Place::Directory(other)) => {
                held.get_or_insert_with(|| FileLocationError::FileIsDirectory {
                    index,
                    file: name(index),
                    other_index: other,
                    other_file: name(other),
                    location: location.clone(),
                });
                tree.set(node, Place::File(index));
            }
            None => tree.set(node, Place::File(index)),
        }
    }
    held.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn locate(paths: &[&str], roots: &[&str]) -> Result<Vec<String>, FileLocationError> {
        let files = InputFiles::Paths(paths.iter().map(ToString::to_string).collect());
        let roots: Vec<String> = roots.iter().map(ToString::to_string).collect();
        Ok(file_locations(&files, &roots)?
            .into_iter()
            .map(|path| path.0)
            .collect())
    }

    #[test]
    fn longest_root_is_cut_off() {
        assert_eq!(locate(&["b/a/b/c"], &[]).unwrap(), ["c"]);
        assert_eq!(locate(&["b/a/b/c"], &[""]).unwrap(), ["b/a/b/c"]);
        assert_eq!(locate(&["b/a/b/c"], &["b", "b/a"]).unwrap(), ["b/c"]);
        assert_eq!(locate(&["b/a/b/c"], &["b/a/"]).unwrap(), ["b/c"]);
        assert_eq!(locate(&["b/ab/c"], &["b/a"]).unwrap(), ["c"]);
        assert_eq!(locate(&["b/a/c"], &["b/a/c"]).unwrap(), ["c"]);
    }

    #[test]
    fn segments_that_climb_or_vanish_are_refused() {
        for path in [
            "b/../x", "b/x/..", "b/./x", "b/x/", "b//x", "/b/x", "", "b/a\0b",
        ] {
            let error = locate(&["b/ok", path], &["b"]).unwrap_err();
            assert_eq!(error.kind(), "illegal_segment", "{error}");
            assert!(error.to_string().contains(&format!("{path:?}")), "{error}");
        }
    }

    #[test]
    fn files_at_one_place_are_named() {
        let error = locate(&["b/a/x", "b/y", "b/b/x"], &[])
            .unwrap_err()
            .to_string();
        for part in ["\"b/a/x\"", "\"b/b/x\"", "\"x\""] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_file_is_no_directory_in_either_order() {
        for paths in [["b/a", "b/a/c/d"], ["b/a/c/d", "b/a"]] {
            let error = locate(&paths, &["b"]).unwrap_err();
            let FileLocationError::FileIsDirectory {
                file,
                other_file,
                location,
                ..
            } = error
            else {
                panic!("{error:?}");
            };
            assert_eq!((file.as_str(), other_file.as_str()), ("b/a", "b/a/c/d"));
            assert_eq!(location.as_str(), "a");
        }
    }

    #[test]
    fn ten_thousand_deep_files_are_placed() {
        // Anything worse than linear in the paths' length would be noticed here.
        let deep = "d/".repeat(400);
        let paths: Vec<String> = (0..10_000).map(|i| format!("bucket/{deep}{i}")).collect();
        let files = InputFiles::Paths(paths);
        assert_eq!(
            file_locations(&files, &["bucket".to_owned()])
                .unwrap()
                .len(),
            10_000
        );
    }

    /// The contract's rule word by word, for one file.
    fn by_the_rule(path: &str, roots: &[String]) -> String {
        let cut = roots
            .iter()
            .filter(|root| !root.is_empty())
            .filter(|root| path.starts_with(&format!("{root}/")))
            .max_by_key(|root| root.len());
        match cut {
            Some(root) => path[root.len() + 1..].to_owned(),
            None if roots.iter().any(String::is_empty) => path.to_owned(),
            None => path.rsplit('/').next().unwrap().to_owned(),
        }
    }

    proptest! {
        #[test]
        fn follows_the_rule(
            paths in vec("b/([ab]{1,2}/){0,3}[ab]{1,2}", 1..6),
            roots in vec("(b(/[ab]{1,2}){0,3})?", 0..4),
        ) {
            let expected: Vec<String> = paths.iter().map(|path| by_the_rule(path, &roots)).collect();
            let collides = expected.iter().enumerate().any(|(i, one)| {
                expected.iter().enumerate().any(|(j, other)| {
                    i != j && (one == other || other.starts_with(&format!("{one}/")))
                })
            });
            match file_locations(&InputFiles::Paths(paths), &roots) {
                Ok(locations) => {
                    prop_assert!(!collides);
                    let locations: Vec<String> = locations.into_iter().map(|path| path.0).collect();
                    prop_assert_eq!(locations, expected);
                }
                Err(error) => prop_assert!(collides, "{}", error),
            }
        }

        #[test]
        fn accepted_places_are_safe_and_distinct(
            paths in vec(".{0,12}(/.{0,4}){0,3}", 1..6),
            roots in vec(".{0,6}(/.{0,4}){0,2}", 0..3),
        ) {
            if let Ok(locations) = file_locations(&InputFiles::Paths(paths), &roots) {
                let distinct: HashSet<_> = locations.iter().collect();
                prop_assert_eq!(distinct.len(), locations.len());
                for location in &locations {
                    prop_assert!(RelativePath::new(location.as_str()).is_ok());
                }
            }
        }
    }
}
