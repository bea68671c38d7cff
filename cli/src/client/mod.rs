//! Asking a cluster: each request goes to the controllers in turn until one answers or the time is over.
//!
//! A change carries its request id through every attempt, so that it is carried out once however often it is sent. If
//! the time ends after an attempt that may have arrived, the outcome is unknown and the person is told so; it is never
//! taken for a failure.

mod dial;
mod verdict;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::time::Duration;

use berth_proto::v1;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::args::Global;
use crate::failure::Failure;
use crate::settings::Settings;

use dial::Dialer;
use verdict::History;
pub(crate) use verdict::{Effect, Trouble, Verdict, judge};

/// The longest answer that is read: a full page of VMs with room to spare, far from filling a memory.
pub(crate) const LARGEST_ANSWER: usize = 32 << 20;

/// The longest that one attempt may take before the next controller is asked. An election takes less, and a controller
/// that is slower than this is as good as gone.
pub(crate) const ATTEMPT: Duration = Duration::from_secs(10);
/// The longest that connecting may take within an attempt.
const CONNECT: Duration = Duration::from_secs(3);
/// The first pause after all controllers were asked in vain; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// After so long in vain a person is told what is being waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// A cluster that can be asked.
pub(crate) struct Client {
    endpoints: Vec<String>,
    dialer: Dialer,
    timeout: Duration,
    at: usize,
    channel: Option<Channel>,
    remark: fn(&str),
}

impl Client {
    /// Reads the certificate; connects only when something is asked.
    /// `remark` is called when a request takes long, once for each.
    pub(crate) fn new(settings: &Settings, remark: fn(&str)) -> Result<Self, Failure> {
        let dialer = Dialer::new(settings.credentials()?);
        Ok(Self {
            endpoints: settings.endpoints.clone(),
            dialer,
            timeout: settings.timeout,
            at: 0,
            channel: None,
            remark,
        })
    }

    /// How many controllers there are to ask.
    pub(crate) fn endpoints(&self) -> usize {
        self.endpoints.len()
    }

    /// The controller that is asked at present.
    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoints[self.at]
    }

    /// How long a request may take over all attempts.
    pub(crate) const fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Leaves the present controller; the next request goes to the one after it.
    pub(crate) fn turn(&mut self) {
        self.channel = None;
        self.at = (self.at + 1) % self.endpoints.len();
    }

    /// A connection to the present controller, new unless one stands.
    pub(crate) async fn channel(&mut self, at_most: Duration) -> Result<Channel, Trouble> {
        if let Some(channel) = &self.channel {
            return Ok(channel.clone());
        }
        let channel = self.dialer.dial(self.endpoint(), at_most.min(CONNECT)).await.map_err(Trouble::Connection)?;
        self.channel = Some(channel.clone());
        Ok(channel)
    }

    /// Asks until one controller answers. A refusal is an answer.
    pub(crate) async fn ask<Q, A, F, Fut>(&mut self, effect: &Effect, question: Q, call: F) -> Result<A, Failure>
    where
        Q: Clone,
        F: Fn(Channel, Request<Q>) -> Fut,
        Fut: Future<Output = Result<Response<A>, Status>>,
    {
        let began = Instant::now();
        let end = began + self.timeout;
        let mut remarked = false;
        let mut history = History::default();
        let mut pause = FIRST_PAUSE;
        loop {
            for _ in 0..self.endpoints.len() {
                let left = end.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(history.give_up(effect, self.timeout));
                }
                let at_most = left.min(ATTEMPT);
                let trouble = match self.attempt(at_most, question.clone(), &call).await {
                    Ok(answer) => return Ok(answer),
                    Err(trouble) => trouble,
                };
                match judge(self.endpoint(), &trouble) {
                    Verdict::Final(failure) => return Err(failure),
                    Verdict::Elsewhere { may_have_arrived } if trouble == Trouble::TooLate && at_most < ATTEMPT => {
                        history.note_cut_short(self.endpoint(), may_have_arrived);
                    }
                    Verdict::Elsewhere { may_have_arrived } => {
                        history.note(self.endpoint(), &trouble, may_have_arrived);
                    }
                }
                self.turn();
            }
            // Whom we do not trust now we shall not trust in a second.
            if history.is_matter_of_trust() || Instant::now() + pause >= end {
                return Err(history.give_up(effect, self.timeout));
            }
            if !remarked && began.elapsed() > PATIENCE {
                remarked = true;
                (self.remark)(&history.so_far(end.saturating_duration_since(Instant::now())));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn attempt<Q, A, F, Fut>(&mut self, at_most: Duration, question: Q, call: &F) -> Result<A, Trouble>
    where
        F: Fn(Channel, Request<Q>) -> Fut,
        Fut: Future<Output = Result<Response<A>, Status>>,
    {
        let channel = self.channel(at_most).await?;
        match tokio::time::timeout(at_most, call(channel, Request::new(question))).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(Trouble::of_status(&status)),
            Err(_) => Err(Trouble::TooLate),
        }
    }
}

/// How fresh answers must be.
pub(crate) const fn consistency(global: &Global) -> v1::Consistency {
    if global.stale {
        v1::Consistency::Stale
    } else if global.lease {
        v1::Consistency::Lease
    } else {
        v1::Consistency::Linearizable
    }
}

/// A new request id.
pub(crate) fn request_id(given: Option<&str>) -> String {
    given.map_or_else(|| uuid::Uuid::now_v7().to_string(), str::to_owned)
}
