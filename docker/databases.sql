-- Run once, when PostgreSQL's volume is new. POSTGRES_DB makes the first one, `optuna`.
CREATE DATABASE runs;
CREATE DATABASE users;
