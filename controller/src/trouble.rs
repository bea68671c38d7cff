//! Why this member takes no part in the log, for all who must stop meanwhile.

use std::time::Duration;

use berth_raft::{Handle, State};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Why this member takes no part, while it takes none.
pub(crate) type Trouble = watch::Receiver<Option<String>>;

/// How often to look: quicker than an operator, slower than a log that is busy.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Follows the state of the log until told to stop.
pub(crate) fn follow(log: Handle, shutdown: CancellationToken) -> Trouble {
    let (sender, receiver) = watch::channel(of(&log.status().state));
    tokio::spawn(async move {
        let mut every = tokio::time::interval(LOOK_EVERY);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = every.tick() => {}
            }
            let now = of(&log.status().state);
            sender.send_if_modified(|known| {
                let differs = *known != now;
                if differs {
                    match (&now, &known) {
                        (Some(why), _) => tracing::error!("this controller takes no part: {why}"),
                        (None, _) => tracing::info!("this controller takes part again"),
                    }
                    *known = now;
                }
                differs
            });
        }
    });
    receiver
}

/// In words; none while it takes part.
pub(crate) fn of(state: &State) -> Option<String> {
    match state {
        State::Running => None,
        State::Stopped => Some("the log of this member has stopped".into()),
        State::Failed(why) | State::Excluded(why) => Some(why.clone()),
    }
}
