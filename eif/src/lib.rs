//! Enclave image files (EIF): measuring them, taking them apart, putting them together, and
//! building ours from source.
//!
//! The format is that of `aws-nitro-enclaves-image-format` (version 4, big-endian); the
//! measurements are those of the AWS Nitro Enclaves user guide, "Where to find an enclave's
//! measurements".
//!
//! ```text
//! source, kernel ──build──> Image ──measure──> PCR0, 1, 2 (8)
//!                             ^  |
//!          read_file ──parse──┘  └──> kernel, command line, ramdisks
//! ```
//!
//! ```
//! // Sections in order, without gaps, nothing after them: else it is not measured as it is read.
//! assert!(eif::Image::parse(b".eif and nothing else").is_err());
//! ```
#![forbid(unsafe_code)]

pub mod build;
mod compiled;
mod describe;
mod error;
mod image;
mod kernel;
mod limits;
mod measure;
mod place;
mod ramdisk;
mod register;
mod signature;
mod step;

pub use crate::describe::describe;
pub use crate::error::Error;
pub use crate::image::{Image, Parts, read_file};
pub use crate::kernel::check_bz_image;
pub use crate::limits::MAX_IMAGE_BYTES;
pub use crate::measure::Measurements;
pub use crate::ramdisk::{Entry, ramdisk};
pub use crate::signature::{Signature, SigningKey};
