//! What is configured for a group now, as the operator wrote it.

use postern_proxy_config::{
    group::{CONFIG_KEY, Shard},
    names, parse,
};

use crate::stores::Stores;

/// A group's shards. One that isn't there, or can't be read, counts as none.
pub fn shards(stores: &Stores, group: &str) -> Vec<Shard> {
    (0..names::SHARDS)
        .filter_map(|index| {
            let map = stores.config_map(&names::shard(group, index))?;
            let json = map.data.as_ref()?.get(CONFIG_KEY)?;
            parse::parse::<Shard>(json).ok().map(|parsed| parsed.value)
        })
        .collect()
}
