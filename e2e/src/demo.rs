//! `cargo lab demo`
use crate::lab::Lab;
use crate::step::Steps;
use anyhow::Result;
pub fn demo(lab: &Lab, steps: &mut Steps) -> Result<()> {
    crate::up::up(lab, steps).map(drop)
}
