//! A program at a terminal: somebody types before it asks, and reads what it showed.

use std::fs::OpenOptions;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::{Command, Stdio};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

/// What somebody at the terminal saw, and what the program left.
pub struct Sitting {
    pub code: i32,
    pub stdout: String,
    pub screen: String,
}

/// Runs `command` with stdin and stderr at a terminal at which `typed` is typed; stdout goes elsewhere.
pub fn sit_at(mut command: Command, typed: &str) -> Sitting {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
    let controller = openpt(flags).expect("a terminal");
    grantpt(&controller).and_then(|()| unlockpt(&controller)).expect("a terminal to open");
    let name = ptsname(&controller, Vec::new()).expect("a terminal has a name").into_string().expect("in ASCII");
    let seat = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(OpenptFlags::NOCTTY.bits() as i32)
        .open(name)
        .expect("the terminal opens");
    command.stdin(seat.try_clone().expect("a second handle")).stderr(seat).stdout(Stdio::piped());
    let mut controller = std::fs::File::from(controller);
    controller.write_all(typed.as_bytes()).expect("the terminal takes what is typed");
    let child = command.spawn().expect("the program starts");
    // The last handles of the seat are the program's: when it ends, so does what can be read here.
    drop(command);
    let output = child.wait_with_output().expect("the program ends");
    let mut screen = Vec::new();
    // Linux says EIO where the seat is closed.
    let _ = controller.read_to_end(&mut screen);
    Sitting {
        code: output.status.code().expect("no signal ended it"),
        stdout: String::from_utf8(output.stdout).expect("text on stdout"),
        screen: String::from_utf8(screen).expect("text on the terminal"),
    }
}
