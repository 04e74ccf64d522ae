//! `anchorhold-eif`: builds the enclave image, and says what a hypervisor will measure of any
//! image.

mod progress;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use eif::Error;
use eif::build::{Plan, write_file};

use crate::progress::Progress;

/// Build enclave image files (EIF) and measure them.
///
/// Exit code 0: done. 1: the image is refused. 64: wrong usage, or something is missing here. 70:
/// the build failed.
#[derive(Debug, Parser)]
#[command(name = "anchorhold-eif", version, max_term_width = 100)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build the enclave image from source; prints its measurements as nitro-cli does
    Build {
        /// Write the image here
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
        /// The development enclave, whose NSM is a mock, instead of the production one
        #[arg(long)]
        dev: bool,
        /// Our source tree
        #[arg(long, value_name = "DIR", default_value = ".")]
        source: PathBuf,
        /// Take this kernel, a bzImage, instead of building one
        #[arg(long, value_name = "BZIMAGE", conflicts_with = "kernel_source")]
        kernel: Option<PathBuf>,
        /// Build the kernel from this tarball [default: that of Debian's package linux-source-6.12]
        #[arg(long, value_name = "TARBALL")]
        kernel_source: Option<PathBuf>,
        /// Keep built kernels here [default: $XDG_CACHE_HOME/anchorhold or ~/.cache/anchorhold]
        #[arg(
            long,
            value_name = "DIR",
            env = "ANCHORHOLD_CACHE",
            hide_env_values = true
        )]
        cache: Option<PathBuf>,
        /// Sign the image with this P-384 key (PEM)
        #[arg(long, value_name = "PEM", requires = "signing_certificate")]
        signing_key: Option<PathBuf>,
        /// The certificate of that key (PEM); PCR8 is its measurement
        #[arg(long, value_name = "PEM", requires = "signing_key")]
        signing_certificate: Option<PathBuf>,
    },
    /// Print what nitro-cli's describe-eif prints; the output serves as measurements file for
    /// anchorhold-verify
    Describe {
        /// An enclave image file
        file: PathBuf,
    },
    /// Write the manual pages into a folder, which must be there
    Man {
        /// The folder
        folder: PathBuf,
    },
    /// Print a completion script for your shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 64 } else { 0 });
        }
    };
    match run(args.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("{} [{}]", error, error.code()));
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(command: Command) -> Result<(), Error> {
    match command {
        Command::Build {
            output,
            dev,
            source,
            kernel,
            kernel_source,
            cache,
            signing_key,
            signing_certificate,
        } => {
            let cache = cache.map_or_else(default_cache, Ok)?;
            let signing = signing_key.zip(signing_certificate);
            let plan = Plan {
                development: dev,
                source,
                kernel,
                kernel_source,
                cache,
                signing,
            };
            let mut log = output.clone().into_os_string();
            log.push(".log");
            let log = PathBuf::from(log);
            let progress = Progress::new(&log);
            let built = plan.run(&|step| progress.begins(step), &log);
            let (image, measurements) = built.inspect_err(|error| {
                progress.breaks_off();
                if matches!(error, Error::Step { .. }) {
                    say(&format!("what the steps said: {}", log.display()));
                }
            })?;
            write_file(&output, &image)?;
            progress.ends(&format!("{}: {} bytes", output.display(), image.len()));
            let measurements = serde_json::json!({ "Measurements": measurements });
            print(
                &serde_json::to_string_pretty(&measurements)
                    .map_err(|error| Error::Metadata(error.to_string()))?,
            )
        }
        Command::Describe { file } => print(&eif::describe(&eif::read_file(&file)?)?),
        Command::Man { folder } => {
            clap_mangen::generate_to(Args::command(), &folder).map_err(|source| Error::Io {
                what: folder.display().to_string(),
                source,
            })
        }
        Command::Completions { shell } => {
            clap_complete::generate(
                shell,
                &mut Args::command(),
                "anchorhold-eif",
                &mut std::io::stdout(),
            );
            Ok(())
        }
    }
}

fn default_cache() -> Result<PathBuf, Error> {
    let named = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|folder| folder.is_absolute());
    let folder = named.or_else(|| std::env::home_dir().map(|home| home.join(".cache")));
    let missing = || Error::Io {
        what: "cache".into(),
        source: std::io::Error::other("HOME is not set; name it with --cache"),
    };
    Ok(folder.ok_or_else(missing)?.join("anchorhold"))
}

fn print(text: &str) -> Result<(), Error> {
    let written = writeln!(std::io::stdout(), "{text}");
    written.map_err(|source| Error::Io {
        what: "standard output".into(),
        source,
    })
}

fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "anchorhold-eif: {text}");
}
