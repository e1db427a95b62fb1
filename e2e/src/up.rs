//! `cargo lab up`: everything that is not there yet, in order; a second run changes nothing.

use anyhow::{Context, Result};

use crate::cluster::{self, Cluster};
use crate::lab::Lab;
use crate::product::{self, Images};
use crate::step::Steps;
use crate::tailnet::{self, Helpers};
use crate::{down, machine};

/// A lab that is up; this process is inside its network namespace.
#[derive(Debug)]
pub struct Up {
    pub cluster: Cluster,
    pub helpers: Helpers,
    pub images: Images,
}

/// What is built before the lab is up.
#[derive(Debug)]
pub struct Built {
    helpers: Helpers,
    images: Images,
}

/// Brings the lab up to date with this tree.
pub fn up(lab: &Lab, steps: &mut Steps) -> Result<Up> {
    let built = build(lab, steps)?;
    start(lab, built, steps)
}

/// Builds all of it, which keeps every core busy.
pub fn build(lab: &Lab, steps: &mut Steps) -> Result<Built> {
    let helpers = prepare(lab, steps)?;
    let images = product::build(lab, &helpers, steps)?;
    Ok(Built { helpers, images })
}

/// Starts what was built, which mostly waits.
pub fn start(lab: &Lab, Built { helpers, images }: Built, steps: &mut Steps) -> Result<Up> {
    let cluster = servers(lab, &helpers, steps)?;
    product::load(lab, &images, steps)?;
    product::install(lab, &cluster, &images, steps)?;
    Ok(Up {
        cluster,
        helpers,
        images,
    })
}

/// The cluster and the tailnet's servers, without Postern.
pub fn bare(lab: &Lab, steps: &mut Steps) -> Result<()> {
    let helpers = prepare(lab, steps)?;
    servers(lab, &helpers, steps).map(drop)
}

fn prepare(lab: &Lab, steps: &mut Steps) -> Result<Helpers> {
    machine::check(lab)?;
    machine::install(lab, steps)?;
    cluster::build(lab, steps)?;
    Helpers::build(lab, steps)
}

fn servers(lab: &Lab, helpers: &Helpers, steps: &mut Steps) -> Result<Cluster> {
    let before = down::Interfaces::now()?;
    let cluster = cluster::up(lab, steps)?;
    down::remember(lab, &cluster, &before)?;
    cluster.enter()?;
    tailnet::up(lab, helpers, steps).context("the tailnet's servers did not start")?;
    Ok(cluster)
}
