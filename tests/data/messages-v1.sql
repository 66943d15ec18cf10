-- A store of schema 1, as its first release wrote it: frozen. See tests/integration/test_migrations.py.
PRAGMA auto_vacuum = INCREMENTAL;
BEGIN TRANSACTION;
CREATE TABLE "_sqlite_migrations" (
   "id" INTEGER PRIMARY KEY,
   "migration_set" TEXT,
   "name" TEXT,
   "applied_at" TEXT
);
INSERT INTO "_sqlite_migrations" VALUES(1,'messages','version_1','2026-11-24 04:42:01.842553+00:00');
CREATE TABLE "boots" (
   "id" INTEGER PRIMARY KEY,
   "boot_id" TEXT
);
INSERT INTO "boots" VALUES(1,'boot-0');
CREATE TABLE "levels" (
   "stream" INTEGER,
   "priority" INTEGER,
   "messages" INTEGER,
   "bytes" INTEGER,
   "stored" INTEGER,
   "delivered" INTEGER,
   PRIMARY KEY ("stream", "priority")
);
INSERT INTO "levels" VALUES(1,3,2,58,3,1);
INSERT INTO "levels" VALUES(2,4,2,14,4,0);
CREATE TABLE "losses" (
   "stream" INTEGER,
   "reason" TEXT,
   "messages" INTEGER,
   "bytes" INTEGER,
   "first_id" INTEGER,
   "last_id" INTEGER,
   PRIMARY KEY ("stream", "reason")
);
INSERT INTO "losses" VALUES(2,'quarantined',1,6,6,6);
INSERT INTO "losses" VALUES(2,'expired',1,7,5,5);
CREATE TABLE "messages" (
   "id" INTEGER PRIMARY KEY,
   "stream" INTEGER NOT NULL,
   "kind" INTEGER NOT NULL,
   "priority" INTEGER NOT NULL,
   "ttl_s" REAL,
   "stored_wall_s" REAL,
   "stored_boot_s" REAL NOT NULL,
   "boot" INTEGER NOT NULL,
   "batch_id" TEXT,
   "batch_slice_id" TEXT,
   "message_id" TEXT,
   "chunk_id" TEXT,
   "content_type" TEXT,
   "properties" TEXT,
   "key" TEXT,
   "file" TEXT,
   "bytes" INTEGER NOT NULL,
   "payload" BLOB NOT NULL
);
INSERT INTO "messages" VALUES(2,1,0,3,86400.0,1800000000.0,100.0,1,'b1',NULL,NULL,NULL,'text/plain','{"unit":"°C"}','press/b/2',NULL,28,X'74776F');
INSERT INTO "messages" VALUES(3,1,0,3,86400.0,1800000000.0,100.0,1,'b1',NULL,NULL,NULL,'text/plain','{"unit":"°C"}','press/b/3',NULL,30,X'7468726565');
INSERT INTO "messages" VALUES(4,2,0,4,NULL,1800000000.0,100.0,1,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,10,X'00FF206B65796C657373');
INSERT INTO "messages" VALUES(7,2,0,4,NULL,1800000000.0,100.0,1,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,4,X'6C617374');
CREATE TABLE "producers" (
   "producer" TEXT,
   "boot" TEXT,
   "memory" BLOB,
   "used_boot" INTEGER,
   "used_boot_s" REAL,
   PRIMARY KEY ("producer", "boot")
);
INSERT INTO "producers" VALUES('press','b',X'0000000000000000010000000000000001000000000000000300000000000000010000000000000003000000000000000100000000000000',1,100.0);
CREATE TABLE "quarantine" (
   "id" INTEGER PRIMARY KEY,
   "stream" INTEGER NOT NULL,
   "kind" INTEGER NOT NULL,
   "priority" INTEGER NOT NULL,
   "ttl_s" REAL,
   "stored_wall_s" REAL,
   "stored_boot_s" REAL NOT NULL,
   "boot" INTEGER NOT NULL,
   "batch_id" TEXT,
   "batch_slice_id" TEXT,
   "message_id" TEXT,
   "chunk_id" TEXT,
   "content_type" TEXT,
   "properties" TEXT,
   "key" TEXT,
   "file" TEXT,
   "bytes" INTEGER NOT NULL,
   "payload" BLOB NOT NULL,
   "reason" TEXT NOT NULL,
   "set_aside_wall_s" REAL
);
INSERT INTO "quarantine" VALUES(6,2,0,4,NULL,1800000000.0,100.0,1,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,6,X'706F69736F6E','poison',1800000000.0);
CREATE TABLE "store" (
   "id" INTEGER PRIMARY KEY,
   "uuid" TEXT,
   "next_id" INTEGER,
   "next_stream" INTEGER,
   "producers" INTEGER
);
INSERT INTO "store" VALUES(1,'0123456789abcdef0123456789abcdef',8,3,1);
CREATE TABLE "streams" (
   "id" INTEGER PRIMARY KEY,
   "stream_group" TEXT,
   "stream" TEXT
);
INSERT INTO "streams" VALUES(1,'plant','a');
INSERT INTO "streams" VALUES(2,NULL,'b');
CREATE UNIQUE INDEX "idx__sqlite_migrations_migration_set_name"
    ON "_sqlite_migrations" ("migration_set", "name");
CREATE UNIQUE INDEX "idx_boots_boot_id"
    ON "boots" ("boot_id");
COMMIT;
PRAGMA user_version = 1;
