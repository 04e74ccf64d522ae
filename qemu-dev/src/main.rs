//! `anchorhold-dev`: Anchorhold on a laptop, with a mock where hardware would be.

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use parent_proxy::{Config, cli::serve_until_stopped};
use qemu_dev::aws::Aws;
use qemu_dev::{DevEgress, DevEnclave, DevIngress, DevService, Qemu, Up, VmMachine, demo, up};
use rustix::process::{Signal, getppid, set_parent_process_death_signal};

/// Try Anchorhold without hardware: the same enclave, sidecar and verifier, with a mock secure
/// module.
///
/// What it proves is that the mock made it. Its evidence chains to a root of its own, its tokens
/// say "tee":"mock", and no verifier accepts it unless it is told to, with that very root.
///
/// Exit code 0: all held, or stopped. 1: a forgery was not refused as it should be. 64: wrong usage
/// or files. 70: it failed.
#[derive(Debug, Parser)]
#[command(name = "anchorhold-dev", version, max_term_width = 100)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Tell the whole story once, with forgeries, in a temporary folder; exit code 0 only if all
    /// held
    Demo {
        /// Print one JSON object instead of prose
        #[arg(long)]
        json: bool,
    },
    /// Tell the story of the gateway once, in a temporary folder: a toy agent, what passes, what is
    /// blocked, an override that somebody approves, and the log that an enclave has sealed; exit code 0
    /// only if all held
    Gateway {
        /// Print one JSON object instead of prose
        #[arg(long)]
        json: bool,
    },
    /// Tell the story of a credential that nobody sees, once: a toy API over TLS, an agent with a
    /// placeholder, a receipt that a stranger verifies, attacks, and a revocation that bites; exit code 0
    /// only if all held
    Credentials {
        /// Print one JSON object instead of prose
        #[arg(long)]
        json: bool,
    },
    /// Run a mock enclave and a sidecar until Ctrl-C; says what to paste next
    Up {
        /// Keep the mock's root and the configuration here (keys are ephemeral all the same)
        /// [default: a temporary folder]
        #[arg(long, value_name = "DIR")]
        state: Option<PathBuf>,
        /// The same, and keep the identities' keys too: a mock of AWS KMS wraps what they are sealed
        /// under, and this program plays the operator (docs/durability.md)
        #[arg(long, value_name = "DIR", conflicts_with = "state")]
        durable: Option<PathBuf>,
        /// Path of the sidecar's socket; its directory is made if missing [default: that of
        /// DIR/sidecar.toml, or $XDG_RUNTIME_DIR/anchorhold/sidecar.sock]
        #[arg(long, env = "ANCHORHOLD_SOCKET", value_name = "PATH")]
        socket: Option<PathBuf>,
    },
    /// Boot a development image here, without hardware, and play its hypervisor until Ctrl-C;
    /// prints the endpoint
    Qemu {
        /// A development image; make one with: anchorhold-eif build --dev -o signer-dev.eif
        image: PathBuf,
        /// Keep the mock's root and the configuration here (keys are ephemeral all the same)
        /// [default: a temporary folder]
        #[arg(long, value_name = "DIR")]
        state: Option<PathBuf>,
        /// How to boot it
        #[arg(long, value_enum, default_value_t = VmMachine::Microvm)]
        machine: VmMachine,
        /// The QEMU to use
        #[arg(
            long,
            env = "ANCHORHOLD_QEMU",
            hide_env_values = true,
            value_name = "PROGRAM",
            default_value = "qemu-system-x86_64"
        )]
        qemu: PathBuf,
        /// The machine's memory, in MiB
        #[arg(long, value_name = "MIB", default_value_t = 128, value_parser = clap::value_parser!(u32).range(48..=65536))]
        memory: u32,
    },
    /// Run a program that ends when the parent process ends; `qemu` starts this
    #[command(hide = true)]
    Run {
        /// The program and its arguments
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// Run a mock enclave alone, for a sidecar of your own (`anchorhold serve`)
    Enclave {
        /// Keep the mock's root here; what is missing is made
        #[arg(long, value_name = "DIR")]
        state: PathBuf,
        /// Unix socket to listen on: unix://PATH in the sidecar's configuration
        #[arg(long, value_name = "PATH")]
        listen: PathBuf,
        /// The mock hypervisor's time at the start, milliseconds since 1970
        #[arg(long, hide = true)]
        nsm_time_ms: Option<u64>,
        /// A program that lies, in place of the process of the first service
        #[arg(long, hide = true)]
        liar: Option<PathBuf>,
        /// End when the parent process ends
        #[arg(long, hide = true)]
        with_parent: bool,
    },
    /// End TLS to the outside for a mock enclave, which starts this
    #[command(hide = true)]
    Egress {
        /// Unix socket where lines are lent
        #[arg(long)]
        listen: PathBuf,
    },
    /// End TLS of agents for a mock enclave, which starts this
    #[command(hide = true)]
    Ingress {
        /// Unix socket to which agents' lines come
        #[arg(long)]
        listen: PathBuf,
    },
    /// End TLS to a service for a mock enclave, which starts this
    #[command(hide = true)]
    Service {
        /// Unix socket where lines are lent
        #[arg(long)]
        listen: PathBuf,
    },
    /// Play AWS KMS over TLS until Ctrl-C, for an enclave whose keys last; one call is one line on
    /// stderr
    ///
    /// It is no AWS and says so in each answer. It checks what AWS checks: the signature of each
    /// request, the key policy, the enclave's document; and answers a document as AWS does, with a
    /// secret that only the enclave can open. Tools of AWS can ask it too: set
    /// AWS_SHARED_CREDENTIALS_FILE=DIR/aws/credentials and AWS_CA_BUNDLE=DIR/aws/mock-aws-root.pem,
    /// and name https://localhost:PORT as endpoint.
    Aws(Aws),
    /// Be the sidecar; `up` and `demo` start this
    #[command(hide = true)]
    Sidecar {
        /// Configuration file
        #[arg(long)]
        config: PathBuf,
        /// End when the parent process ends
        #[arg(long)]
        with_parent: bool,
    },
    /// Be the gateway; `gateway` starts this
    #[command(hide = true)]
    Iatp {
        #[command(flatten)]
        flags: gateway::Flags,
        /// End when the parent process ends
        #[arg(long)]
        with_parent: bool,
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
    policy_engine::without_huge_pages();
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 64 } else { 0 });
        }
    };
    run(args.command)
}

fn run(command: Command) -> ExitCode {
    match command {
        Command::Demo { json } => with_runtime(async move { demo::run(json).await }),
        Command::Gateway { json } => with_runtime(async move { demo::run_gateway(json).await }),
        Command::Credentials { json } => {
            with_runtime(async move { demo::run_credentials(json).await })
        }
        Command::Up {
            state,
            durable,
            socket,
        } => with_runtime(async move {
            let options = Up {
                state,
                durable,
                socket,
            };
            ended(up(&options).await, qemu_dev::Error::exit_code)
        }),
        Command::Qemu {
            image,
            state,
            machine,
            qemu,
            memory,
        } => {
            let options = Qemu {
                image,
                state,
                machine,
                qemu,
                memory_mib: memory,
            };
            with_runtime(async move {
                ended(qemu_dev::qemu(&options).await, qemu_dev::Error::exit_code)
            })
        }
        Command::Run { command } => {
            end_with_parent(true);
            let error = std::process::Command::new(&command[0])
                .args(&command[1..])
                .exec();
            ended(Err(format!("{}: {error}", command[0].display())), |_| 70)
        }
        Command::Enclave {
            state,
            listen,
            nsm_time_ms,
            liar,
            with_parent,
        } => {
            end_with_parent(with_parent);
            ended(
                DevEnclave {
                    state,
                    listen,
                    nsm_time_ms,
                    liar,
                }
                .run(),
                qemu_dev::Error::exit_code,
            )
        }
        Command::Egress { listen } => ended(DevEgress { listen }.run(), qemu_dev::Error::exit_code),
        Command::Ingress { listen } => {
            ended(DevIngress { listen }.run(), qemu_dev::Error::exit_code)
        }
        Command::Service { listen } => {
            ended(DevService { listen }.run(), qemu_dev::Error::exit_code)
        }
        Command::Aws(aws) => {
            end_with_parent(aws.with_parent);
            with_runtime(async move { ended(aws.run().await, qemu_dev::Error::exit_code) })
        }
        Command::Sidecar {
            config,
            with_parent,
        } => {
            end_with_parent(with_parent);
            ended(
                Config::read(&config).and_then(serve_until_stopped),
                parent_proxy::Error::exit_code,
            )
        }
        Command::Iatp { flags, with_parent } => {
            end_with_parent(with_parent);
            gateway::main(flags)
        }
        Command::Man { folder } => ended(
            clap_mangen::generate_to(Args::command(), &folder)
                .map_err(|error| format!("{}: {error}", folder.display())),
            |_| 64,
        ),
        Command::Completions { shell } => {
            clap_complete::generate(
                shell,
                &mut Args::command(),
                "anchorhold-dev",
                &mut std::io::stdout(),
            );
            ExitCode::SUCCESS
        }
    }
}

/// The parent's death is this process' death too; a parent that is gone already has left it to
/// init.
fn end_with_parent(wanted: bool) {
    if wanted
        && (set_parent_process_death_signal(Some(Signal::TERM)).is_err()
            || getppid().is_none_or(|pid| pid.is_init()))
    {
        std::process::exit(70);
    }
}

fn with_runtime(story: impl Future<Output = ExitCode>) -> ExitCode {
    match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime.block_on(story),
        Err(error) => ended(Err(error), |_| 70),
    }
}

fn ended<E: std::fmt::Display>(outcome: Result<(), E>, code: impl Fn(&E) -> u8) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "anchorhold-dev: {error}");
            ExitCode::from(code(&error))
        }
    }
}
