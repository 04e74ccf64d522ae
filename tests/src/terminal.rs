//! A command on a terminal of its own: a pseudo-terminal, as wide as the test says.

use std::process::Command;

use serde_json::json;

/// What a command did on a terminal.
pub struct Screen {
    /// Its exit code.
    pub code: i32,
    /// Everything that stood on the screen.
    pub text: String,
}

/// Runs `command` (program, arguments, variables, folder) on a terminal of so many columns. Each
/// pair of `typed` is typed once its first half has been on the screen: what follows it, and `\x03`
/// is Ctrl-C.
///
/// # Panics
/// If there is no Python, or the command does not end within a minute.
pub fn on_terminal(command: &Command, columns: u16, typed: &[(&str, &str)]) -> Screen {
    let mut argv = vec![command.get_program().to_string_lossy().into_owned()];
    argv.extend(
        command
            .get_args()
            .map(|argument| argument.to_string_lossy().into_owned()),
    );
    let play = json!({"argv": argv, "columns": columns, "typed": typed}).to_string();
    let mut python = Command::new("python3");
    python.args(["-c", TERMINAL, &play]);
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => python.env(name, value),
            None => python.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        python.current_dir(folder);
    }
    let output = python.output().expect("python3");
    Screen {
        code: output.status.code().expect("an exit code"),
        text: String::from_utf8_lossy(&output.stdout).into_owned(),
    }
}

const TERMINAL: &str = r#"
import fcntl, json, os, signal, struct, sys, termios
play = json.loads(sys.argv[1])
terminal, inner = os.openpty()
fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 50, play["columns"], 0, 0))
pid = os.fork()
if pid == 0:
    os.close(terminal)
    os.login_tty(inner)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.execvp(play["argv"][0], play["argv"])
os.close(inner)
signal.alarm(60)
screen, typed, seen = b"", list(play["typed"]), 0
while True:
    try:
        read = os.read(terminal, 4096)
    except OSError:
        break
    if not read:
        break
    screen += read
    while typed and typed[0][0].encode() in screen[seen:]:
        after, line = typed.pop(0)
        seen = screen.index(after.encode(), seen) + len(after)
        os.write(terminal, line.encode())
sys.stdout.buffer.write(screen)
sys.stdout.flush()
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"#;
