//! The database's schema, version by version: `migrations/*.sql`, embedded, the same for SQLite and PostgreSQL.

use std::future::ready;
use std::pin::Pin;

use sqlx::SqlSafeStr;
use sqlx::error::BoxDynError;
use sqlx::migrate::{Migration, MigrationSource, MigrationType, Migrator};

/// Applied in order. An applied one is never changed, a new one is added.
const MIGRATIONS: [(i64, &str, &str); 1] =
    [(1, "call log", include_str!("../../migrations/0001_call_log.sql"))];

/// The embedded files as sqlx takes them.
#[derive(Debug)]
struct Embedded;

impl MigrationSource<'static> for Embedded {
    fn resolve(self) -> Pin<Box<dyn Future<Output = Result<Vec<Migration>, BoxDynError>> + Send>> {
        let migration = |(version, description, sql): (i64, &'static str, &'static str)| {
            Migration::new(version, description.into(), MigrationType::Simple, sql.into_sql_str(), false)
        };
        Box::pin(ready(Ok(MIGRATIONS.map(migration).to_vec())))
    }
}

/// Brings a database to the newest version.
pub(super) async fn migrator() -> Migrator {
    Migrator::new(Embedded).await.expect("the embedded migrations need no reading")
}
