//! Arguments of `berth image`.

use std::path::PathBuf;

use berth_model::Bytes;
use berth_model::image::Sha256Digest;
use clap::{Args, Subcommand};

/// What to do with images.
#[derive(Subcommand, Debug)]
pub(crate) enum Verb {
    /// Give a name to the bytes of an image file
    Create(Create),
    /// List images
    #[command(alias = "ls")]
    List,
    /// Show one image and the hosts that have it
    Show {
        /// The image's name
        name: String,
    },
    /// Remove a name that no VM uses; the files on the hosts stay
    #[command(alias = "rm")]
    Delete {
        /// The image's name
        name: String,
        /// Name the request, to send it again safely: a UUID of version 7
        #[arg(long, value_name = "UUID")]
        request_id: Option<String>,
    },
}

/// Name an image.
#[derive(Args, Debug)]
pub(crate) struct Create {
    /// The image's name, a DNS label
    pub(crate) name: String,
    /// A qcow2 file, of which digest and virtual size are taken; the file itself is not sent anywhere
    #[arg(short, long, value_name = "FILE", required_unless_present_all = ["sha256", "size"], conflicts_with_all = ["sha256", "size"])]
    pub(crate) file: Option<PathBuf>,
    /// The SHA-256 of the file
    #[arg(long, value_name = "DIGEST", requires = "size")]
    pub(crate) sha256: Option<Sha256Digest>,
    /// The size of the disk that a guest sees: 64MiB, 10GiB
    #[arg(long, value_name = "AMOUNT", requires = "sha256")]
    pub(crate) size: Option<Bytes>,
    /// Name the request, to send it again safely: a UUID of version 7
    #[arg(long, value_name = "UUID")]
    pub(crate) request_id: Option<String>,
}
