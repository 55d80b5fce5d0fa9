//! How much one staging may make of an object.

/// Bounds of one staging. They hold off archives that are made to fill a disk, not large data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StagingLimits {
    /// Files, directories and links together.
    pub max_entries: u64,
    /// Unpacked bytes per byte of the object, from [`expansion_from_bytes`](Self::expansion_from_bytes) on.
    pub max_expansion: u64,
    /// Unpacked bytes up to which any expansion will do: small files of zeros are not an attack.
    pub expansion_from_bytes: u64,
    /// Unpacked bytes of one object.
    pub max_unpacked_bytes: u64,
    /// Bytes of the file system that are kept free.
    pub reserve_bytes: u64,
}

const GIB: u64 = 1024 * 1024 * 1024;

impl Default for StagingLimits {
    fn default() -> Self {
        Self {
            max_entries: 1_000_000,
            max_expansion: 200,
            expansion_from_bytes: GIB,
            max_unpacked_bytes: 4096 * GIB,
            reserve_bytes: GIB,
        }
    }
}

impl StagingLimits {
    /// The unpacked bytes that an object of `packed` bytes may have.
    #[must_use]
    pub fn unpacked_bytes_of(&self, packed: u64) -> u64 {
        packed
            .saturating_mul(self.max_expansion)
            .max(self.expansion_from_bytes)
            .min(self.max_unpacked_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_objects_may_expand_freely_and_large_ones_by_the_factor() {
        let limits = StagingLimits::default();
        assert_eq!(limits.unpacked_bytes_of(10), GIB);
        assert_eq!(limits.unpacked_bytes_of(GIB), 200 * GIB);
        assert_eq!(limits.unpacked_bytes_of(u64::MAX), 4096 * GIB);
    }
}
