//! Floor 4: users at Voximplant, by its Management API, and their hashes in the users file.

mod management;
mod users_file;

pub(crate) use self::management::{ApiError, ApplicationRef, ManagementApi};
pub(crate) use self::users_file::UsersFileDraft;
