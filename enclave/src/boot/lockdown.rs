//! What this process gives up before it reads a byte of anybody else's.

use rustix::process::{Gid, Uid};
use rustix::thread::{
    CapabilitySet, capabilities, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use super::machine::failed;
use super::seccomp;
use crate::Error;

/// `nobody`: a user without files or processes.
pub const NOBODY: u32 = 65534;
/// Whom the egress process becomes: another user, so that neither process can touch the other.
pub const EGRESS_USER: u32 = 65533;

/// Whom the ingress process becomes.
pub const INGRESS_USER: u32 = 65532;

/// Whom the processes of services become: this one and those after it, a user for each.
pub const SERVICE_USER: u32 = 65500;

/// Becomes this user, without groups or capabilities. For the only thread of a process.
pub fn drop_privileges(user: u32) -> Result<(), Error> {
    let (uid, gid) = (Uid::from_raw(user), Gid::from_raw(user));
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
    seccomp::confine_to(seccomp::ALLOWED)
}

/// The same, for the egress process.
pub fn confine_egress() -> Result<(), Error> {
    seccomp::confine_to(seccomp::EGRESS)
}

/// The same, for the process of a service, and the ingress process.
pub fn confine_service() -> Result<(), Error> {
    seccomp::confine_to(seccomp::SERVICE)
}
