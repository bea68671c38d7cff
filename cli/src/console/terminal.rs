//! The terminal in raw mode, and back again whatever happens.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, Once, PoisonError};

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

use crate::failure::Failure;

/// Which terminal is raw, and how it was. Global because the panic hook must find it.
static BEFORE: Mutex<Option<(OwnedFd, Termios)>> = Mutex::new(None);
static HOOK: Once = Once::new();

/// While this lives, keys arrive one by one and unchanged.
#[derive(Debug)]
pub(super) struct RawTerminal(());

impl RawTerminal {
    /// Makes this terminal raw. One at a time.
    pub(super) fn enter(terminal: impl AsFd) -> Result<Self, Failure> {
        let failed = |error: io::Error| Failure::refused(format!("cannot make the terminal raw: {error}"));
        HOOK.call_once(|| {
            let previous = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                restore();
                previous(info);
            }));
        });
        let terminal = terminal.as_fd().try_clone_to_owned().map_err(failed)?;
        let before = tcgetattr(&terminal).map_err(|error| failed(error.into()))?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(&terminal, SetArg::TCSANOW, &raw).map_err(|error| failed(error.into()))?;
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some((terminal, before));
        Ok(Self(()))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        restore();
    }
}

fn restore() {
    if let Some((terminal, before)) = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take() {
        // There is nothing to be done about a terminal that is gone.
        let _ = tcsetattr(&terminal, SetArg::TCSAFLUSH, &before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::termios::LocalFlags;

    #[test]
    fn the_terminal_is_as_before_after_the_console_and_after_a_panic() {
        let pty = nix::pty::openpty(None, None).unwrap();
        let modes = || tcgetattr(&pty.slave).unwrap().local_flags;
        let cooked = modes();
        assert!(cooked.contains(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG));

        let raw = RawTerminal::enter(&pty.slave).unwrap();
        assert!(!modes().intersects(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG));
        drop(raw);
        assert_eq!(modes(), cooked);

        // The hook alone must do it: a program that aborts on panic drops nothing.
        std::mem::forget(RawTerminal::enter(&pty.slave).unwrap());
        std::thread::spawn(|| panic!("a fault in the console")).join().unwrap_err();
        assert_eq!(modes(), cooked);
    }
}
