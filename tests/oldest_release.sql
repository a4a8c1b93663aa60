-- The database of the oldest release, as its own commands `users add` and `users ban` and nine requests of alice made it
-- with the secret in test_update.py.
BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0001');
CREATE TABLE counts (
	"key" VARCHAR(200) NOT NULL, 
	count INTEGER NOT NULL, 
	expires_at FLOAT NOT NULL, 
	PRIMARY KEY ("key")
);
INSERT INTO "counts" VALUES('requests/42/6/1/minute',9,1.79579375369429492946e+09);
INSERT INTO "counts" VALUES('refusals/42/49/10/minute',3,1.79579429372530722619e+09);
CREATE TABLE users (
	id BIGINT NOT NULL, 
	name VARCHAR(64) NOT NULL, 
	flags INTEGER NOT NULL, 
	coefficient FLOAT NOT NULL, 
	issued_at BIGINT NOT NULL, 
	banned_until FLOAT, 
	PRIMARY KEY (id), 
	UNIQUE (name)
);
INSERT INTO "users" VALUES(42,'alice',405,0.1,1795793625319,NULL);
INSERT INTO "users" VALUES(43,'Alice',133,0.8,1795793632293,NULL);
INSERT INTO "users" VALUES(44,'--help',133,0.8,1795793639308,NULL);
INSERT INTO "users" VALUES(45,'аlice',133,0.8,1795793645516,NULL);
INSERT INTO "users" VALUES(46,'mallory',197,0.8,1795793652512,NULL);
COMMIT;
