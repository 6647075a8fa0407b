//! One-time-key login: the arithmetic behind `/auth/ott`. Pure; knows no HTTP.

use super::secret::Secret;

/// `MD5(user:voximplant.com:password)`. As good as the password itself.
#[derive(Debug, Clone)]
pub struct Ha1(Secret);
