//! `--watch`: showing the same again, until Ctrl-C.
//!
//! On a terminal each look takes the place of the one before. Anywhere else, and as JSON, only what is new is printed, so
//! that a file or a program gets each state once. An agent that is restarted is waited for.

use std::{str::FromStr, time::Duration};

use clap::Args;
use serde::Serialize;
use tokio::{
    signal,
    time::{MissedTickBehavior, interval},
};

use super::{
    CliError,
    output::{Output, Style, printable},
};

#[derive(Args, Clone, Copy, Debug)]
pub(super) struct Watch {
    /// Show it again every so many seconds (1 if left out), until Ctrl-C
    #[arg(long, short, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "1")]
    watch: Option<Period>,
}

/// Time between two looks.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Period(Duration);

impl FromStr for Period {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let seconds = text.parse().ok().filter(|seconds| (0.1..=86_400.0).contains(seconds));
        seconds
            .map(|seconds| Self(Duration::from_secs_f64(seconds)))
            .ok_or("seconds lie between 0.1 and 86400")
    }
}

impl Watch {
    /// Fetches and prints; again and again if asked for.
    pub(super) async fn show<T: Serialize + Clone + PartialEq>(
        self,
        out: Output,
        fetch: impl AsyncFnMut() -> Result<T, CliError>,
        human: impl Fn(&T, Style) -> String,
    ) -> Result<(), CliError> {
        // Times that pass are not news, nor is what is counted and not shown.
        let is_shown = |before: &T, now: &T| out.shows_otherwise(before, now, &human);
        let whole = |before: &T, now: &T| (before != now && is_shown(before, now)).then(|| now.clone());
        self.until_interrupted(out, out.redraws(), fetch, whole, &human).await
    }

    /// The same, but of a later answer only `news`, which gets the one before it too, below what was printed already.
    pub(super) async fn show_news<T: Serialize>(
        self,
        out: Output,
        fetch: impl AsyncFnMut() -> Result<T, CliError>,
        news: impl Fn(&T, &T) -> Option<T>,
        human: impl Fn(&T, Style) -> String,
    ) -> Result<(), CliError> {
        self.until_interrupted(out, false, fetch, news, human).await
    }

    async fn until_interrupted<T: Serialize>(
        self,
        out: Output,
        redraws: bool,
        mut fetch: impl AsyncFnMut() -> Result<T, CliError>,
        news: impl Fn(&T, &T) -> Option<T>,
        human: impl Fn(&T, Style) -> String,
    ) -> Result<(), CliError> {
        let first = fetch().await?;
        let Some(Period(period)) = self.watch else { return out.print(&first, |style| human(&first, style)) };
        let show_first = || match redraws {
            true => out.redraw(&human(&first, out.style())),
            false => out.print(&first, |style| human(&first, style)),
        };
        show_first()?;
        let show = |before: &T, now: &T| match (redraws, news(before, now)) {
            (true, _) => out.redraw(&human(now, out.style())),
            (false, Some(news)) => out.print(&news, |style| format!("\n{}", human(&news, style))),
            (false, None) => Ok(()),
        };
        tokio::select! {
            interrupted = signal::ctrl_c() => Ok(interrupted?),
            failed = follow(period, first, fetch, show) => failed,
        }
    }
}

/// Fetches again and again. That the agent is away for a while is said once.
async fn follow<T>(
    period: Duration,
    mut before: T,
    mut fetch: impl AsyncFnMut() -> Result<T, CliError>,
    show: impl Fn(&T, &T) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    let mut is_away = false;
    loop {
        ticks.tick().await;
        match fetch().await {
            Ok(now) => {
                show(&before, &now)?;
                (before, is_away) = (now, false);
            }
            Err(CliError::Client(e)) if e.is_transient() => {
                if !std::mem::replace(&mut is_away, true) {
                    eprintln!("overlay: {}; waiting for it", printable(&e.to_string()));
                }
            }
            Err(e) => return Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("1", Some(1.0))]
    #[case("0.5", Some(0.5))]
    #[case("0", None)]
    #[case("-1", None)]
    #[case("nan", None)]
    #[case("soon", None)]
    fn a_period_is_some_seconds(#[case] text: &str, #[case] expected: Option<f64>) {
        assert_eq!(text.parse::<Period>().ok(), expected.map(|s| Period(Duration::from_secs_f64(s))));
    }

    /// What is shown of answers that come one after the other.
    async fn shown(answers: Vec<Result<u32, CliError>>) -> (Vec<(u32, u32)>, String) {
        let shown = std::cell::RefCell::new(Vec::new());
        let mut answers = answers.into_iter();
        let fetch = async || answers.next().unwrap_or(Err(CliError::Differences));
        let show = |before: &u32, now: &u32| {
            shown.borrow_mut().push((*before, *now));
            Ok(())
        };
        let ended = follow(Duration::from_millis(1), 0, fetch, show).await.unwrap_err();
        (shown.into_inner(), ended.to_string())
    }

    fn no_agent() -> CliError {
        CliError::Client(crate::api::client::ClientError::NoAgent { socket: "/x".into() })
    }

    #[tokio::test]
    async fn an_agent_that_is_restarted_is_waited_for_and_another_failure_is_not() {
        let (shown, ended) = shown(vec![Ok(1), Err(no_agent()), Err(no_agent()), Ok(2)]).await;
        assert_eq!(shown, [(0, 1), (1, 2)]);
        assert_eq!(ended, CliError::Differences.to_string());
    }
}
