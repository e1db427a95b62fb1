//! Tolerant reading: functions for `deserialize_with`.
//!
//! A value is first taken whole, as raw JSON, so that whatever is wrong inside it can't disturb what
//! stands after it. It is borrowed: what is read must be a text, since a map of thousands of peers is one
//! inside the other four times.

use std::{collections::BTreeMap, fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::Hostinfo;
use crate::key::{DiscoPublic, MachinePublic};

/// A list without its broken elements.
#[derive(Debug, Clone, PartialEq)]
pub struct List<T> {
    /// The elements that could be read.
    pub items: Vec<T>,
    /// How many could not.
    pub dropped: usize,
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self::from(Vec::new())
    }
}

impl<T> From<Vec<T>> for List<T> {
    fn from(items: Vec<T>) -> Self {
        Self { items, dropped: 0 }
    }
}

impl<T> std::ops::Deref for List<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.items
    }
}

impl<T> IntoIterator for List<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.items.into_iter()
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let raw = <&RawValue>::deserialize(d)?;
        Self::read(raw.get()).map_err(serde::de::Error::custom)
    }
}

impl<T: DeserializeOwned> List<T> {
    fn read(json: &str) -> serde_json::Result<Self> {
        // Few lists hold anything broken, and one by one takes longer.
        if let Ok(items) = serde_json::from_str::<Vec<T>>(json) {
            return Ok(items.into());
        }
        let mut list = Self::default();
        for raw in serde_json::from_str::<Vec<&RawValue>>(json)? {
            match serde_json::from_str(raw.get()) {
                Ok(item) => list.items.push(item),
                Err(_) => list.dropped += 1,
            }
        }
        Ok(list)
    }
}

/// `None` when the value is `null` or of another type.
pub(super) fn optional<'de, D, T>(d: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned,
{
    let raw = <&RawValue>::deserialize(d)?;
    Ok(serde_json::from_str::<Option<T>>(raw.get()).ok().flatten())
}

/// With its JSON beside it.
pub(super) fn hostinfo<'de, D: Deserializer<'de>>(d: D) -> Result<Hostinfo, D::Error> {
    let raw = <&RawValue>::deserialize(d)?;
    let read = serde_json::from_str::<Option<Hostinfo>>(raw.get());
    let mut hostinfo = read.ok().flatten().unwrap_or_default();
    hostinfo.json = raw.get().starts_with('{').then(|| raw.get().into());
    Ok(hostinfo)
}

/// The default when the value is `null` or of another type.
pub(super) fn or_default<'de, D, T>(d: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned + Default,
{
    Ok(optional(d)?.unwrap_or_default())
}

/// The default when the value is `null`; another type is an error.
pub(super) fn null_default<'de, D, T>(d: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned + Default,
{
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

/// A list whose broken elements nobody needs to count.
pub(super) fn list<'de, D, T>(d: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned,
{
    Ok(optional_list(d)?.unwrap_or_default())
}

/// The same with their count.
pub(super) fn counted_list<'de, D, T>(d: D) -> Result<List<T>, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned,
{
    let raw = <&RawValue>::deserialize(d)?;
    Ok(List::read(raw.get()).unwrap_or_default())
}

/// As [`list`], but `null` is not `[]`.
pub(super) fn optional_list<'de, D, T>(d: D) -> Result<Option<Vec<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned,
{
    let raw = <&RawValue>::deserialize(d)?;
    Ok(List::read(raw.get()).ok().map(|list| list.items))
}

struct Entries<K, V>(BTreeMap<K, V>);

impl<'de, K: FromStr + Ord, V: DeserializeOwned> Deserialize<'de> for Entries<K, V> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Pairs<K, V>(std::marker::PhantomData<(K, V)>);

        impl<'de, K: FromStr + Ord, V: DeserializeOwned> Visitor<'de> for Pairs<K, V> {
            type Value = Entries<K, V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = BTreeMap::new();
                while let Some((key, raw)) = map.next_entry::<String, &'de RawValue>()? {
                    if let (Ok(key), Ok(value)) = (key.parse(), serde_json::from_str(raw.get())) {
                        entries.insert(key, value);
                    }
                }
                Ok(Entries(entries))
            }
        }

        d.deserialize_map(Pairs(std::marker::PhantomData))
    }
}

/// An object without the entries whose key or value is broken. `null` values are kept where `V` is an
/// `Option`.
pub(super) fn map<'de, D, K, V>(d: D) -> Result<BTreeMap<K, V>, D::Error>
where
    D: Deserializer<'de>,
    K: FromStr + Ord,
    V: DeserializeOwned,
{
    Ok(optional_map(d)?.unwrap_or_default())
}

/// As [`map`], but `null` is not `{}`.
pub(super) fn optional_map<'de, D, K, V>(d: D) -> Result<Option<BTreeMap<K, V>>, D::Error>
where
    D: Deserializer<'de>,
    K: FromStr + Ord,
    V: DeserializeOwned,
{
    Ok(optional::<D, Entries<K, V>>(d)?.map(|entries| entries.0))
}

/// Capabilities. A `null` value list is an empty one; a capability whose value is no list is left out.
pub(super) fn cap_map<'de, D>(d: D) -> Result<crate::netmap::CapMap, D::Error>
where
    D: Deserializer<'de>,
{
    Ok(optional_cap_map(d)?.unwrap_or_default())
}

/// As [`cap_map`], but `null` is not `{}`.
pub(super) fn optional_cap_map<'de, D>(d: D) -> Result<Option<crate::netmap::CapMap>, D::Error>
where
    D: Deserializer<'de>,
{
    let caps = optional_map::<D, String, Option<Vec<Box<RawValue>>>>(d)?;
    Ok(caps.map(|caps| {
        caps.into_iter()
            .map(|(cap, values)| (cap, values.unwrap_or_default()))
            .collect()
    }))
}

/// A time; Go's zero time is none.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct GoTime(Option<Timestamp>);

impl<'de> Deserialize<'de> for GoTime {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        /// 0001-01-01T00:00:00Z in Unix time.
        const ZERO: i64 = -62_135_596_800;
        let time: Timestamp = String::deserialize(d)?
            .parse()
            .map_err(serde::de::Error::custom)?;
        Ok(Self(Some(time).filter(|t| t.as_second() != ZERO)))
    }
}

/// A time whose absence matters: another type is an error.
pub(super) fn strict_time<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Timestamp>, D::Error> {
    Ok(Option::<GoTime>::deserialize(d)?.and_then(|t| t.0))
}

/// A time; broken is none.
pub(super) fn time<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Timestamp>, D::Error> {
    Ok(optional::<D, GoTime>(d)?.and_then(|t| t.0))
}

/// A change of a time: `None` unchanged, `Some(None)` now none.
pub(super) fn time_change<'de, D>(d: D) -> Result<Option<Option<Timestamp>>, D::Error>
where
    D: Deserializer<'de>,
{
    Ok(Option::<GoTime>::deserialize(d)?.map(|t| t.0))
}

/// A machine key; all zeros is none.
pub(super) fn machine_key<'de, D>(d: D) -> Result<Option<MachinePublic>, D::Error>
where
    D: Deserializer<'de>,
{
    Ok(optional::<D, MachinePublic>(d)?.filter(|key| !key.is_zero()))
}

/// A disco key; all zeros is none.
pub(super) fn disco_key<'de, D>(d: D) -> Result<Option<DiscoPublic>, D::Error>
where
    D: Deserializer<'de>,
{
    Ok(optional::<D, DiscoPublic>(d)?.filter(|key| !key.is_zero()))
}

/// Bytes as base64; broken is empty.
pub(super) fn base64<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
    let text: String = or_default(d)?;
    Ok(STANDARD.decode(text).unwrap_or_default())
}
