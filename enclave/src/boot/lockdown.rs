//! What this process gives up before it reads a byte of anybody else's.

use rustix::process::{Gid, Uid};
use rustix::thread::{
    CapabilitySet, capabilities, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use super::machine::{failed, forbid_dumps};
use super::seccomp;
use crate::{BootClock, BootTime, Error};

/// `nobody`: a user without files or processes.
const NOBODY: u32 = 65534;

/// Becomes nobody, without groups or capabilities. For the only thread of a process.
pub fn drop_privileges() -> Result<(), Error> {
    let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    set_thread_groups(&[]).map_err(failed("dropping groups"))?;
    set_thread_res_gid(gid, gid, gid).map_err(failed("dropping the group"))?;
    set_thread_res_uid(uid, uid, uid).map_err(failed("dropping the user"))?;
    let left = capabilities(None).map_err(failed("reading capabilities"))?;
    if left.effective.union(left.permitted).union(left.inheritable) == CapabilitySet::empty() {
        Ok(())
    } else {
        Err(Error::Boot {
            step: "dropping capabilities",
            why: "some are left".into(),
        })
    }
}

/// No core dumps, no new privileges, and no system call that is not on the list, for all threads,
/// for good.
pub fn confine() -> Result<(), Error> {
    // Changing the user has made the process dumpable or not as the kernel sees fit; so once more.
    forbid_dumps()?;
    // The first look at a clock finds the vDSO, by means that are gone afterwards.
    let _ = BootTime.now();
    seccomp::enter()
}
