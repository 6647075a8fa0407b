//! Floor 4: users at Voximplant, by its Management API: their phones, which a freeze stops, those that log in for
//! the first time, and their hashes in the users file.

mod file_work;
mod management;
mod newcomers;
mod phones;
mod users_file;

pub(crate) use self::management::{ApiError, ApplicationRef, ManagementApi, UserChange};
pub(crate) use self::newcomers::{NewcomerError, Newcomers};
pub(crate) use self::phones::{PhoneReport, PhoneState, Phones};
pub(crate) use self::users_file::UsersFileDraft;
use crate::model::secret::Secret;
use crate::random;

/// How many random bytes make a password.
const RANDOM: usize = 24;

/// Makes a random password that Voximplant accepts.
#[must_use]
pub(crate) fn random_password() -> Secret {
    // Voximplant requires upper and lower case, a digit and a sign; the random text may lack one of them.
    Secret::new(format!("{}-aA1", random::text::<RANDOM>()))
}
