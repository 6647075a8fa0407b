//! Floor 4: users at Voximplant, by its Management API: their phones, which a freeze stops, and their hashes in the users
//! file.

mod management;
mod phones;
mod users_file;

pub(crate) use self::management::{ApiError, ApplicationRef, ManagementApi, UserChange};
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
