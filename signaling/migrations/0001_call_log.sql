-- The call log. One text for SQLite and PostgreSQL. Times are wall time, microseconds since the Unix epoch.
create table calls (
    record_id text not null primary key,
    call_id text not null,
    call_type text not null,
    initiator text not null,
    started_at bigint not null,
    answered_at bigint,
    ended_at bigint not null,
    end_reason text not null,
    ended_by text,
    upgraded_to text
);
create index calls_by_start on calls (started_at, record_id);
create index calls_by_call_id on calls (call_id, started_at);
create index calls_by_initiator on calls (initiator);

create table participants (
    record_id text not null references calls (record_id) on delete cascade,
    position bigint not null,
    user_id text not null,
    joined_at bigint,
    left_at bigint,
    quality_reports bigint,
    quality_worst text,
    quality_round_trip_time double precision,
    quality_packets_lost bigint,
    primary key (record_id, position)
);
create index participants_by_user on participants (user_id);
