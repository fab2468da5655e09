-- Run once, when the volume is empty: a database for each environment.
CREATE DATABASE eval_dev;
CREATE DATABASE eval_test;
CREATE DATABASE eval_staging;
CREATE DATABASE eval_prod;
