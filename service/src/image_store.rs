//! What the service remembers about images, and the trait of whatever keeps it.

use futures::future::BoxFuture;

use cts_shared::image_name::ImageName;
use cts_shared::wire::image::Image;

use crate::job_store::StoreError;

/// At most this many images are listed (contract service.md, section 9).
pub const MAX_LISTED_IMAGES: u32 = 1000;

/// How an insertion ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inserted {
    /// The image is registered.
    Yes,
    /// An image of that name has that tag (or also lacks one).
    TagExists,
    /// An image of that name has that digest.
    DigestExists,
}

/// Keeps registered images.
pub trait ImageStore: Send + Sync + std::fmt::Debug {
    /// Registers an image unless its tag or digest is taken.
    ///
    /// # Errors
    /// When the store fails.
    fn insert_image(&self, image: Image) -> BoxFuture<'_, Result<Inserted, StoreError>>;

    /// The registered image a name means: by digest if it has one, else by tag.
    ///
    /// # Errors
    /// When the store fails.
    fn image(&self, name: ImageName) -> BoxFuture<'_, Result<Option<Image>, StoreError>>;

    /// Removes the registered image a name means. False if there is none. Jobs keep the copy they
    /// were submitted with.
    ///
    /// # Errors
    /// When the store fails.
    fn delete_image(&self, name: ImageName) -> BoxFuture<'_, Result<bool, StoreError>>;

    /// At most [`MAX_LISTED_IMAGES`] images, by name.
    ///
    /// # Errors
    /// When the store fails.
    fn images(&self) -> BoxFuture<'_, Result<Vec<Image>, StoreError>>;
}
