//! Which of the job's input files go to which container (contract service.md, section 3.5).

use std::ops::Range;

use crate::id::ContainerNumber;

/// The consecutive input files of one container, as indexes into the job's list.
///
/// With F files and N containers each gets F div N, and each of the first F mod N one more. `None`
/// if there is no such container.
#[must_use]
pub fn file_range(
    file_count: usize,
    num_containers: u32,
    container: ContainerNumber,
) -> Option<Range<usize>> {
    if container >= num_containers {
        return None;
    }
    let containers = usize::try_from(num_containers).ok()?;
    let container = usize::try_from(container).ok()?;
    let (each, more) = (file_count / containers, file_count % containers);
    // The files of the containers before this one, at most file_count.
    let start = container * each + container.min(more);
    Some(start..start + each + usize::from(container < more))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn first_containers_get_the_rest() {
        assert_eq!(file_range(10, 3, 0), Some(0..4));
        assert_eq!(file_range(10, 3, 1), Some(4..7));
        assert_eq!(file_range(10, 3, 2), Some(7..10));
        assert_eq!(file_range(10, 3, 3), None);
        assert_eq!(file_range(10, 0, 0), None);
        assert_eq!(file_range(1, 2, 1), Some(1..1));
    }

    proptest! {
        #[test]
        fn every_file_goes_to_one_container(files in 0..10_000_usize, containers in 1..1001_u32) {
            let mut next = 0;
            for container in 0..containers {
                let range = file_range(files, containers, container).unwrap();
                prop_assert_eq!(range.start, next);
                prop_assert!(range.len().abs_diff(files / containers as usize) <= 1);
                next = range.end;
            }
            prop_assert_eq!(next, files);
        }
    }
}
