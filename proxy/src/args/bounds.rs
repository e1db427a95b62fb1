//! Who gets in from the internet, and how often anybody may ask: a serve.json has no words for it.

use std::{num::NonZeroU32, path::PathBuf};

use clap::Args;
use postern_proxy_config::funnel::Quota;

/// See the module.
#[derive(Debug, Clone, Default, Args)]
pub struct Bounds {
    /// Alone: HTTP requests of each user of the tailnet to each path of the serve.json in a minute; one more is
    /// answered 429.
    #[arg(long, value_name = "N", env = "POSTERN_USER_REQUESTS_PER_MINUTE")]
    pub user_requests_per_minute: Option<NonZeroU32>,
    /// Alone: the same at once.
    #[arg(long, value_name = "N", env = "POSTERN_USER_CONCURRENT")]
    pub user_concurrent: Option<NonZeroU32>,
    /// Alone: what is on Funnel asks for a key of this directory, read again when it changes: `bearer/NAME` holds
    /// keys, `basic/NAME` the password of a user.
    #[arg(long, value_name = "DIR", env = "POSTERN_FUNNEL_KEYS")]
    pub funnel_keys: Option<PathBuf>,
    /// Alone: HTTP requests with each of those keys in a minute.
    #[arg(
        long,
        value_name = "N",
        env = "POSTERN_KEY_REQUESTS_PER_MINUTE",
        requires = "funnel_keys"
    )]
    pub key_requests_per_minute: Option<NonZeroU32>,
    /// Alone: HTTP requests with each of those keys at once.
    #[arg(
        long,
        value_name = "N",
        env = "POSTERN_KEY_CONCURRENT",
        requires = "funnel_keys"
    )]
    pub key_concurrent: Option<NonZeroU32>,
}

impl Bounds {
    /// Of a user.
    pub fn per_user(&self) -> Option<Quota> {
        quota(self.user_requests_per_minute, self.user_concurrent)
    }

    /// Of a key.
    pub fn per_key(&self) -> Option<Quota> {
        quota(self.key_requests_per_minute, self.key_concurrent)
    }
}

fn quota(requests_per_minute: Option<NonZeroU32>, concurrent: Option<NonZeroU32>) -> Option<Quota> {
    let quota = Quota {
        requests_per_minute,
        concurrent,
    };
    (quota != Quota::default()).then_some(quota)
}
