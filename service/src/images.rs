//! Registering images and looking them up (contract service.md, section 9).

use cts_shared::error_code::ErrorCode;
use cts_shared::image_name::ImageName;
use cts_shared::wire::image::{Image, ImageRegistration, JobImage};

use crate::app::App;
use crate::error::Error;
use crate::identity::User;
use crate::image_registry::{RegistryError, RegistryImage};
use crate::image_store::Inserted;
use crate::refdata;

/// What is asked for when an image is registered.
#[derive(Debug, Clone, Default)]
pub struct Registration {
    /// The name as given.
    pub name: String,
    /// Reference data the image needs.
    pub refdata_id: Option<String>,
    /// Where that is mounted by default.
    pub default_refdata_mount_point: Option<String>,
    /// The body.
    pub about: ImageRegistration,
}

/// Parses an image name.
///
/// # Errors
/// 30040.
pub fn parse_name(text: &str) -> Result<ImageName, Error> {
    text.parse::<ImageName>()
        .map_err(|error| Error::refused(ErrorCode::ImageNameParse, error.to_string()))
}

/// The registered image a name means.
///
/// # Errors
/// 40030, or a failure of the store.
pub async fn get(app: &App, name: ImageName) -> Result<Image, Error> {
    let text = name.to_string();
    app.images
        .image(name)
        .await?
        .ok_or_else(|| no_such_image(&text))
}

/// Removes the registered image a name means. Jobs that use it keep their copy.
///
/// # Errors
/// 40030, or a failure of the store.
pub async fn delete(app: &App, admin: &User, name: ImageName) -> Result<(), Error> {
    let text = name.to_string();
    if !app.images.delete_image(name).await? {
        return Err(no_such_image(&text));
    }
    tracing::info!(image = %text, user = %admin.name, "image deleted");
    Ok(())
}

fn no_such_image(name: &str) -> Error {
    Error::refused(
        ErrorCode::NoSuchImage,
        format!("No image {name} is registered; ask an administrator to register it"),
    )
}

/// Registers an image after asking its registry about it.
///
/// # Errors
/// In the contract's order: 30040 and 40030 (`from_image`), 30001, 40060, 30040, 30050, 30060,
/// 50000 and 50010, or a failure of the store.
pub async fn register(app: &App, admin: &User, wanted: Registration) -> Result<Image, Error> {
    let wanted = inherit(app, wanted).await?;
    if wanted.default_refdata_mount_point.is_some() && wanted.refdata_id.is_none() {
        return Err(Error::refused(
            ErrorCode::IllegalParameter,
            "default_refdata_mount_point needs a refdata_id",
        ));
    }
    if let Some(id) = &wanted.refdata_id {
        refdata::get(app, &refdata::refdata_id(id)?).await?;
    }
    let name = parse_name(&wanted.name)?;
    let found = look_up(app, &name).await?;
    let image = Image {
        image: JobImage {
            registered_by: admin.name.clone(),
            registered_on: app.clock.now().truncated_to_millis(),
            name: name.name().to_owned(),
            digest: found.digest,
            entrypoint: found.entrypoint,
            tag: name.tag().map(str::to_owned),
            refdata_id: wanted.refdata_id,
            default_refdata_mount_point: wanted.default_refdata_mount_point,
        },
        urls: wanted.about.urls.filter(|urls| !urls.is_empty()),
        usage_notes: wanted.about.usage_notes,
    };
    match app.images.insert_image(image.clone()).await? {
        Inserted::Yes => Ok(image),
        Inserted::TagExists => Err(Error::refused(
            ErrorCode::ImageTagExists,
            match name.tag() {
                Some(tag) => format!("image {} is registered with tag {tag} already", name.name()),
                None => format!("image {} is registered without a tag already", name.name()),
            },
        )),
        Inserted::DigestExists => Err(Error::refused(
            ErrorCode::ImageDigestExists,
            format!(
                "image {} is registered with digest {} already",
                name.name(),
                image.image.digest
            ),
        )),
    }
}

/// Takes what is not given from the image named in `from_image`.
async fn inherit(app: &App, mut wanted: Registration) -> Result<Registration, Error> {
    let Some(from) = wanted.about.from_image.take() else {
        return Ok(wanted);
    };
    let from = get(app, parse_name(&from)?).await?;
    let about = &mut wanted.about;
    about.urls = about.urls.take().or(from.urls);
    about.usage_notes = about.usage_notes.take().or(from.usage_notes);
    wanted.refdata_id = wanted.refdata_id.or(from.image.refdata_id);
    wanted.default_refdata_mount_point = wanted
        .default_refdata_mount_point
        .or(from.image.default_refdata_mount_point);
    Ok(wanted)
}

async fn look_up(app: &App, name: &ImageName) -> Result<RegistryImage, Error> {
    let reference = name.registry_lookup();
    let found = app
        .registry
        .lookup(&reference)
        .await
        .map_err(|RegistryError(message)| Error::refused(ErrorCode::ImageFetch, message))?;
    if let Some(digest) = name.digest()
        && digest != found.digest
    {
        return Err(Error::refused(
            ErrorCode::ImageFetch,
            format!(
                "image {reference} has digest {} in its registry, {digest} was given",
                found.digest
            ),
        ));
    }
    if found.entrypoint.is_empty() {
        return Err(Error::refused(
            ErrorCode::ImageNoEntrypoint,
            format!("image {reference} has no entrypoint; jobs need one to add their arguments to"),
        ));
    }
    Ok(found)
}

/// The registered images.
///
/// # Errors
/// A failure of the store.
pub async fn list(app: &App) -> Result<Vec<Image>, Error> {
    Ok(app.images.images().await?)
}
