//! The course of a run for the record: the fate of each client's notices, and how many
//! locks were pending.

use std::time::Duration;

use crate::nsm::{FanoutEvent, News, delivery};
use crate::report::PendingReport;
use crate::resync::run::NoticeNews;
use crate::store::DeliveryUpdate;
use crate::wire::control::Delivery;
use crate::wire::types::ms;

/// The fate of a client's notices, in this fan-out and earlier ones.
#[derive(Debug, Clone)]
pub(super) struct NoticeProgress {
    /// The form for the record.
    pub(super) now: DeliveryUpdate,
    /// Of its attempts, those of earlier fan-outs.
    attempts_before: u32,
}

impl NoticeProgress {
    /// The state that an earlier controller reached.
    pub(super) fn going_on(now: DeliveryUpdate) -> Self {
        Self { attempts_before: now.attempts, now }
    }

    /// The client of this number, which was told nothing so far.
    pub(super) fn nothing(client: u32, suspect: bool) -> Self {
        let (delivery, acked_ms, error) = (Delivery::NotTold, None, None);
        Self::going_on(DeliveryUpdate { client, delivery, notices: 0, acks: 0, attempts: 0, acked_ms, suspect, error })
    }

    /// It is about to be notified, with this many notices.
    pub(super) fn start(&mut self, notices: usize) {
        self.now.notices = u32::try_from(notices).unwrap_or(u32::MAX);
        self.attempts_before = self.now.attempts;
    }

    /// It was tried this often since.
    fn tried(&mut self, attempts: u32) {
        self.now.attempts = self.now.attempts.max(self.attempts_before.saturating_add(attempts));
    }

    /// What the fan-out says of it, so long after the run's begin.
    pub(super) fn hear(&mut self, event: &FanoutEvent, since_begin: Duration) -> NoticeNews {
        self.tried(event.attempts);
        match &event.news {
            News::Answered { answered: acked, of, .. } => {
                self.now.acks = self.now.acks.max(*acked);
                self.now.acked_ms = Some(ms(since_begin));
                if acked >= of {
                    self.now.delivery = Delivery::Acked;
                    self.now.error = None;
                }
                NoticeNews::Acked { all: acked >= of }
            }
            News::GivenUp { failure, error, .. } => {
                let failure = delivery(*failure);
                // An ack to an earlier controller stands, though this fan-out has sent all notices again.
                let is_partial = self.now.acks > 0 && (failure.is_given_up() || failure == Delivery::NotTold);
                self.now.delivery = if is_partial { Delivery::Partial } else { failure };
                self.now.error.clone_from(error);
                NoticeNews::GivenUp(self.now.delivery)
            }
            News::SentAgain => NoticeNews::SentAgain,
        }
    }
}

/// How many locks were pending in the course of the run, as the record is to have it: each change, but no two closer than
/// [`PendingCourse::APART_MS`] or the 256th part of the time that has passed. So a day is a few thousand rows.
#[derive(Debug, Default)]
pub(super) struct PendingCourse {
    /// What the record does not have yet.
    pub(super) new: Vec<PendingReport>,
    last: Option<PendingReport>,
}

impl PendingCourse {
    const APART_MS: u64 = 100;

    pub(super) fn add(&mut self, now: PendingReport) {
        let is_news = self.last.is_none_or(|last| {
            let apart = Self::APART_MS.max(now.elapsed_ms / 256);
            last.pending != now.pending && (now.pending == 0 || now.elapsed_ms >= last.elapsed_ms.saturating_add(apart))
        });
        if is_news {
            self.new.push(now);
            self.last = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::fanout::{Failure, Heard};

    #[test]
    fn the_course_of_a_run_is_a_few_thousand_rows_however_often_it_changes() {
        let mut samples = PendingCourse::default();
        let day = 24 * 3_600_000;
        for elapsed_ms in (0..day).step_by(50) {
            samples.add(PendingReport { elapsed_ms, pending: day - elapsed_ms });
        }
        samples.add(PendingReport { elapsed_ms: day + 1, pending: 0 });
        samples.add(PendingReport { elapsed_ms: day + 2, pending: 0 });
        assert!((1_000..4_000).contains(&samples.new.len()), "{}", samples.new.len());
        let first: Vec<_> = samples.new.iter().take(3).map(|row| row.elapsed_ms).collect();
        assert_eq!((first, samples.new.last().map(|row| row.elapsed_ms)), (vec![0, 100, 200], Some(day + 1)));
    }

    #[test]
    fn one_that_acked_some_of_its_notices_before_a_resume_is_recorded_as_partial_when_it_is_given_up() {
        let given_up = |acks| {
            let before = NoticeProgress::nothing(0, false).now;
            let mut told = NoticeProgress::going_on(DeliveryUpdate { notices: 2, acks, ..before });
            told.start(2);
            let news = News::GivenUp { failure: Failure::NoAnswer, heard: Heard::Nothing, error: None, last: true };
            let event = FanoutEvent { id: 0, at: Duration::ZERO, attempts: 3, news };
            (told.hear(&event, Duration::ZERO), told.now.delivery)
        };
        assert_eq!(given_up(1), (NoticeNews::GivenUp(Delivery::Partial), Delivery::Partial));
        assert_eq!(given_up(0), (NoticeNews::GivenUp(Delivery::NoAnswer), Delivery::NoAnswer));
    }

    #[test]
    fn what_is_sent_after_a_break_adds_to_what_was_sent_before() {
        let mut told = NoticeProgress::nothing(0, false);
        for since in [[4, 6], [0, 3]] {
            told.start(4);
            for attempts in since {
                told.tried(attempts);
            }
        }
        assert_eq!((told.now.notices, told.now.attempts), (4, 9));
    }
}
