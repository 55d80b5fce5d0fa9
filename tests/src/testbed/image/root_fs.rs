//! Root file systems, put together from Debian packages.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::super::component::remove_data_dir;
use super::super::error::TestbedError;
use super::super::layout::Layout;
use super::super::packages::Packages;
use super::COMPONENT;

/// What an image consists of.
#[derive(Debug)]
pub(super) struct RootFs {
    /// The tar archive of the only layer, some ten megabytes.
    pub(super) archive: Vec<u8>,
    pub(super) entrypoint: Vec<String>,
}

/// busybox and `containers/test-tool/entry.sh`.
pub(super) async fn test_tool(layout: &Layout) -> Result<RootFs, TestbedError> {
    let packages = Packages::new(layout, COMPONENT);
    let busybox = packages
        .debian_tree("busybox-static", "the test tool's shell")
        .await?;
    let script = crate::binaries::workspace().join("containers/test-tool/entry.sh");
    let root = layout.data("image-test-tool");
    let assemble = || -> io::Result<()> {
        make_root(&root)?;
        let binary = [busybox.join("bin/busybox"), busybox.join("usr/bin/busybox")];
        let binary = binary
            .iter()
            .find(|path| path.is_file())
            .ok_or(io::ErrorKind::NotFound)?;
        std::fs::copy(binary, root.join("bin/busybox"))?;
        let applets = Command::new(binary).arg("--list").output()?;
        for applet in String::from_utf8_lossy(&applets.stdout).lines() {
            if applet != "busybox" {
                std::os::unix::fs::symlink("busybox", root.join("bin").join(applet))?;
            }
        }
        std::fs::copy(&script, root.join("entry.sh")).map(|_| ())
    };
    let entrypoint = ["/bin/busybox", "sh", "/entry.sh"];
    finish(layout, "image-test-tool", &root, assemble(), &entrypoint).await
}

/// SeqKit and the C library it is linked with.
pub(super) async fn seqkit(layout: &Layout) -> Result<RootFs, TestbedError> {
    let packages = Packages::new(layout, COMPONENT);
    let seqkit = packages.debian_tree("seqkit", "the demo's tool").await?;
    let libc = packages
        .debian_tree("libc6", "SeqKit is linked with it")
        .await?;
    let root = layout.data("image-seqkit");
    let assemble = || -> io::Result<()> {
        make_root(&root)?;
        std::fs::create_dir_all(root.join("usr/bin"))?;
        std::fs::copy(seqkit.join("usr/bin/seqkit"), root.join("usr/bin/seqkit"))?;
        for dir in ["lib", "lib64"] {
            if libc.join(dir).is_dir() {
                copy_tree(&libc.join(dir), &root.join(dir))?;
            } else if libc.join("usr").join(dir).is_dir() {
                // Newer releases have merged /lib into /usr/lib.
                copy_tree(&libc.join("usr").join(dir), &root.join("usr").join(dir))?;
                std::os::unix::fs::symlink(Path::new("usr").join(dir), root.join(dir))?;
            }
        }
        Ok(())
    };
    finish(
        layout,
        "image-seqkit",
        &root,
        assemble(),
        &["/usr/bin/seqkit"],
    )
    .await
}

/// An empty root with what programs expect to find.
fn make_root(root: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    if root.exists() {
        std::fs::remove_dir_all(root)?;
    }
    for dir in ["bin", "etc", "tmp"] {
        std::fs::create_dir_all(root.join(dir))?;
    }
    std::fs::set_permissions(root.join("tmp"), std::fs::Permissions::from_mode(0o1777))?;
    std::fs::write(root.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\n")?;
    std::fs::write(root.join("etc/group"), "root:x:0:\n")
}

fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status()?;
    if status.success() {
        Ok(())
    } else {
        Err(io::Error::other(format!("cp: {status}")))
    }
}

/// Packs the root; the same content gives the same archive, and so the same digest.
async fn finish(
    layout: &Layout,
    name: &'static str,
    root: &Path,
    assembled: io::Result<()>,
    entrypoint: &[&str],
) -> Result<RootFs, TestbedError> {
    let failed = |error: io::Error| {
        TestbedError::new(
            COMPONENT,
            format!("cannot assemble {}: {error}", root.display()),
            "remove the testbed's `tools` directory, so that packages are fetched anew",
        )
    };
    assembled.map_err(failed)?;
    let archive: PathBuf = root.with_extension("tar");
    let options = [
        "--sort=name",
        "--mtime=@0",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
    ];
    let arguments = options
        .iter()
        .map(OsStr::new)
        .chain([
            OsStr::new("-cf"),
            archive.as_os_str(),
            "-C".as_ref(),
            root.as_os_str(),
        ])
        .chain([OsStr::new(".")]);
    Packages::new(layout, COMPONENT)
        .run("tar", arguments, &layout.tools())
        .await?;
    let bytes = std::fs::read(&archive).map_err(failed)?;
    std::fs::remove_file(&archive).map_err(failed)?;
    remove_data_dir(name, layout)?;
    Ok(RootFs {
        archive: bytes,
        entrypoint: entrypoint.iter().map(|word| (*word).to_owned()).collect(),
    })
}
