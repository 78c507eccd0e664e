-- The private tables. docs/catalog.md tells the reasons; the public views are in ../../views.
CREATE TABLE sscd_ops.datasets (
    dataset_id      smallint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind            text NOT NULL DEFAULT 'dataset', -- bank: a set of known pictures, without batches
    name            text NOT NULL,
    next_turn       bigint NOT NULL DEFAULT 1,      -- the row is the dataset's lock
    generation      bigint NOT NULL DEFAULT 0,
    snapshot        integer NOT NULL DEFAULT 0,
    fingerprint     text,                           -- digest; set by the first decision
    fingerprint_detail jsonb,
    roots           jsonb NOT NULL DEFAULT '{}',    -- source name -> root its identities are relative to
    created_at      timestamptz NOT NULL DEFAULT now(),
    UNIQUE (kind, name)
);

CREATE TABLE sscd_ops.batches (
    batch_id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    dataset_id      smallint NOT NULL REFERENCES sscd_ops.datasets,
    interval_start  timestamptz NOT NULL,
    interval_end    timestamptz NOT NULL,
    supplement      integer NOT NULL DEFAULT 0,
    dry_run         boolean NOT NULL DEFAULT false,
    state           text NOT NULL,
    attempt_id      bigint,                         -- the current attempt
    decision_id     bigint,                         -- the decision in force
    runner          jsonb,                          -- {"kind": "cli"} or {"kind": "airflow", "dag_id", "run_id"}
    label           text NOT NULL,                  -- the interval in published names
    night           text NOT NULL DEFAULT '',       -- the interval as people name it: what --date takes
    waiting_set     bigint[],                       -- attempts; fixed on first reaching resolve
    waiting_since   timestamptz,
    ready           boolean NOT NULL DEFAULT false, -- false while it still waits for its data
    message         text NOT NULL DEFAULT '',
    started_at      timestamptz NOT NULL DEFAULT now(),
    finished_at     timestamptz
);
CREATE UNIQUE INDEX batches_one_interval ON sscd_ops.batches
    (dataset_id, interval_start, interval_end, supplement) WHERE NOT dry_run;
CREATE UNIQUE INDEX batches_by_decision ON sscd_ops.batches (decision_id);

CREATE TABLE sscd_ops.attempts (
    attempt_id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    batch_id        bigint NOT NULL REFERENCES sscd_ops.batches,
    config_sha256   text NOT NULL,
    config          jsonb NOT NULL,                 -- the dataset's options, frozen
    fingerprint     text NOT NULL,
    fingerprint_detail jsonb NOT NULL,
    threshold       double precision NOT NULL,
    pinned_turn     bigint NOT NULL,                -- verdicts of turns <= this one count as known
    pinned_generation bigint NOT NULL,
    released_at     timestamptz,                    -- a release lets this attempt pass the guard
    read_again      text[],                         -- quarantined samples of these codes are read
                                                    -- again (none: of all), and nothing else; else null
    skipped_shards  integer NOT NULL DEFAULT 0,
    planned_at      timestamptz NOT NULL DEFAULT now(),
    -- null until survey: the two backends stay once they are set
    search          text,                           -- the resolved backend, for history
    search_within   text,                           -- likewise, for the night against itself
    match_tasks     integer,                        -- how many tasks match is split over
    work_list       jsonb                           -- the images to embed; null again with more shards
);
CREATE INDEX attempts_by_batch ON sscd_ops.attempts (batch_id);

CREATE TABLE sscd_ops.source_shards (
    shard_id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    attempt_id      bigint NOT NULL REFERENCES sscd_ops.attempts,
    source          text NOT NULL,
    relative_uri    text NOT NULL,
    uri             text NOT NULL,
    version         text NOT NULL,                  -- etag or checksum, else size and mtime; of a folder a digest
    size            bigint NOT NULL,
    group_no        integer NOT NULL,
    ordinal         integer NOT NULL,               -- the batch's order: plan, then source, then URI
    manifest        jsonb,                          -- {"name","sha256","bytes"}: first registration wins
    descriptors     jsonb,                          -- likewise
    counts          jsonb NOT NULL DEFAULT '{}',    -- samples, not_delivered, ignored entries
    seen_at         timestamptz NOT NULL DEFAULT now(), -- when somebody looked for it last
    gone_at         timestamptz,                    -- since when it is gone, or another version; null: it was there
    removed         integer,                        -- samples of it that its night removed; null until it commits
    UNIQUE (attempt_id, source, relative_uri, version),
    UNIQUE (attempt_id, ordinal)
);
CREATE INDEX source_shards_by_uri ON sscd_ops.source_shards (source, relative_uri);
CREATE INDEX source_shards_by_seen ON sscd_ops.source_shards (seen_at) WHERE removed > 0;

-- One owner for each version of a source shard; claimed by plan under the lock.
CREATE TABLE sscd_ops.shard_owners (
    dataset_id      smallint NOT NULL REFERENCES sscd_ops.datasets,
    source          text NOT NULL,
    relative_uri    text NOT NULL,
    version         text NOT NULL,
    batch_id        bigint NOT NULL REFERENCES sscd_ops.batches,
    attempt_id      bigint NOT NULL REFERENCES sscd_ops.attempts,
    PRIMARY KEY (dataset_id, source, relative_uri, version)
);
CREATE INDEX shard_owners_by_batch ON sscd_ops.shard_owners (batch_id);

-- What a batch's queries were compared with, and the candidate file that says what was found: rows
-- first_query .. end_query - 1 with segments under masks, or with rows first_row .. end_row - 1 of
-- the batch itself. Deleted once the batch is published.
CREATE TABLE sscd_ops.searches (
    search_id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    attempt_id      bigint NOT NULL REFERENCES sscd_ops.attempts,
    queries         text NOT NULL,                  -- digest of the batch's descriptor files
    first_query     bigint NOT NULL,
    end_query       bigint NOT NULL,
    segments        bigint[] NOT NULL,              -- in turn order; none where within the batch
    masks           text[] NOT NULL,                -- sha256 of each one's kept mask
    first_row       bigint,                         -- null where of history
    end_row         bigint,
    listed          int NOT NULL,                   -- matches asked for a query: a full list may lack some
    file            jsonb NOT NULL,
    number          int NOT NULL                    -- of the search in its file
);
CREATE INDEX searches_by_attempt ON sscd_ops.searches (attempt_id, queries);

-- What takes a turn. The row is made before: rows below carry its number and count once it has a
-- turn. A try that loses is marked, and its rows are deleted.
CREATE TABLE sscd_ops.decisions (
    decision_id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    dataset_id      smallint NOT NULL REFERENCES sscd_ops.datasets,
    kind            text NOT NULL,                  -- night, order, repair, bank, adoption, derivation
    batch_id        bigint REFERENCES sscd_ops.batches, -- of a night
    attempt_id      bigint REFERENCES sscd_ops.attempts,
    month           date NOT NULL,                  -- of the decision: the partition of its rows
    client_key      text,                           -- by which a command finds it again
    lost            boolean NOT NULL DEFAULT false, -- never in force any more; its rows are deleted
    started_at      timestamptz NOT NULL DEFAULT now(), -- later: when all its rows were written
    -- null until it is in force
    turn            bigint,
    generation      bigint,                         -- after it
    config_sha256   text,
    actor           text,
    why             text,
    decided_at      timestamptz,
    counts          jsonb,                          -- never changed later
    origins         jsonb,                          -- bank's dataset_id -> its turn that was applied
    -- null until a snapshot has what it changed
    published_at    timestamptz,
    snapshot        integer,                        -- null also where it changed no shard
    announced       boolean NOT NULL DEFAULT false, -- the Airflow asset event of that snapshot is out
    CHECK (batch_id IS NOT NULL OR client_key IS NOT NULL)
);
CREATE UNIQUE INDEX decisions_by_turn ON sscd_ops.decisions (dataset_id, turn);
CREATE UNIQUE INDEX decisions_by_key ON sscd_ops.decisions (dataset_id, client_key)
    WHERE turn IS NOT NULL;
CREATE INDEX decisions_by_batch ON sscd_ops.decisions (batch_id);

CREATE TABLE sscd_ops.segments (
    segment_id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    dataset_id      smallint NOT NULL REFERENCES sscd_ops.datasets,
    role            text NOT NULL DEFAULT 'images', -- withdrawn: of pictures in withdrawn_images
    decision_id     bigint NOT NULL REFERENCES sscd_ops.decisions, -- the first: it stands at its turn
    rows            bigint NOT NULL,
    dimensions      integer NOT NULL,
    fingerprint     text NOT NULL,
    files           jsonb NOT NULL,                 -- role -> {"name","sha256","bytes"}
    created_at      timestamptz NOT NULL DEFAULT now()
);

-- Whose images a segment holds, in turn order: one decision's, or several nights' merged into one.
-- An image's segment_row counts from first_row of its decision.
CREATE TABLE sscd_ops.segment_parts (
    segment_id      bigint NOT NULL REFERENCES sscd_ops.segments,
    first_row       bigint NOT NULL,
    rows            bigint NOT NULL,
    decision_id     bigint NOT NULL REFERENCES sscd_ops.decisions,
    PRIMARY KEY (segment_id, first_row)
);
CREATE INDEX segment_parts_by_decision ON sscd_ops.segment_parts (decision_id);

-- Generations as ranges: generation g holds the masks with from <= g < coalesce(to, infinity).
CREATE TABLE sscd_ops.segment_masks (
    segment_id      bigint NOT NULL REFERENCES sscd_ops.segments,
    generation_from bigint NOT NULL,
    generation_to   bigint,
    mask            jsonb NOT NULL,
    kept            bigint NOT NULL,
    PRIMARY KEY (segment_id, generation_from)
);

CREATE TABLE sscd_ops.generations (
    dataset_id      smallint NOT NULL REFERENCES sscd_ops.datasets,
    generation      bigint NOT NULL,
    turn            bigint NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (dataset_id, generation)
);

-- What a decision said first of each distinct image; later verdicts are in changes. The only large
-- table that look-ups into history touch.
CREATE TABLE sscd_ops.images (
    dataset_id      smallint NOT NULL,
    sha256          bytea NOT NULL,
    decision_id     bigint NOT NULL,
    verdict         text NOT NULL,                  -- kept | removed | quarantined | withdrawn
    reason          text,                           -- near, perceptual, withdrawn, or a fault that follows the bytes
    message         text,
    sample_id       uuid NOT NULL,                  -- the sample that carries it, and its place
    shard_id        bigint NOT NULL,
    position        integer NOT NULL,
    rank            integer NOT NULL,               -- 0: the most preferred of the decision
    slot            integer,                        -- kept: its number in the decision
    segment_row     bigint,                         -- of the decision's in its segment; null: no descriptor (kept: plain)
    witness_sha256  bytea,                          -- removed: the kept image because of which; withdrawn:
                                                    -- the picture of withdrawn_images, which may be no image
    witness_id      uuid,                           -- the sample that carried that one then,
    witness_decision bigint,                        -- and the decision that has the sample's row
    similarity      double precision,
    threshold       double precision,
    PRIMARY KEY (dataset_id, sha256, decision_id)
) PARTITION BY HASH (sha256);
-- A decision's rows are written together: block ranges are enough to find those of a lost one.
CREATE INDEX images_by_decision ON sscd_ops.images USING brin (decision_id)
    WITH (autosummarize = on);
CREATE INDEX images_by_witness ON sscd_ops.images (dataset_id, witness_sha256)
    WHERE witness_sha256 IS NOT NULL;

CREATE TABLE sscd_ops.samples (
    month           date NOT NULL,
    decision_id     bigint NOT NULL,
    sample_id       uuid,                           -- null: a fault of the shard
    shard_id        bigint NOT NULL,
    position        integer NOT NULL,               -- -1: a fault of the shard
    key             text,
    image_sha256    bytea,
    width           integer,
    height          integer,
    format          text,
    bytes           bigint,
    caption         text,
    meta            jsonb,
    verdict         text NOT NULL,                  -- what the decision said; later ones: changes
    reason          text,
    message         text,
    own_fault       boolean,                        -- true: not its image's; it never carries one. Else null
    rank            integer NOT NULL,               -- 0: the most preferred of the decision
    witness_sha256  bytea,                          -- removed: the kept image because of which
    witness_id      uuid,                           -- as in images: holds while that image has no
    witness_decision bigint,                        -- row in changes, and saves looking it up
    similarity      double precision,
    threshold       double precision,
    slot            integer,                        -- kept: its number in the decision, for ever
    plain           boolean,                        -- true: kept, and nothing in its image to compare; else null
    url_sha256      bytea,                          -- of the normalised URL, where the source says one
    host            text                            -- its host, labels reversed: org.example.www.
) PARTITION BY RANGE (month);
-- Also: no place of a source shard has two rows in one decision (the month must be in the key).
CREATE UNIQUE INDEX samples_by_place ON sscd_ops.samples (decision_id, shard_id, position, month);
CREATE INDEX samples_by_id ON sscd_ops.samples (sample_id);
CREATE INDEX samples_by_image ON sscd_ops.samples (image_sha256);
CREATE INDEX samples_by_slot ON sscd_ops.samples (decision_id, slot) WHERE slot IS NOT NULL;
CREATE INDEX samples_by_url ON sscd_ops.samples (url_sha256) WHERE url_sha256 IS NOT NULL;
CREATE INDEX samples_by_host ON sscd_ops.samples (host COLLATE "C") WHERE host IS NOT NULL;

-- Later verdicts, of an image or of one sample. In force at turn T is the row with
-- turn <= T < coalesce(turn_to, infinity) of a decision in force, else what was said first. Never
-- detached: without captions, and as many as people and banks change.
CREATE TABLE sscd_ops.changes (
    dataset_id      smallint NOT NULL,
    decision_id     bigint NOT NULL,
    turn            bigint NOT NULL,                -- its decision's, if that comes into force
    turn_to         bigint,                         -- the turn that changed the same again
    image_sha256    bytea,
    sample_id       uuid,
    verdict         text NOT NULL,                  -- kept | removed | quarantined | withdrawn; an image: free;
                                                    -- a sample: follows (its own verdict ended: its image's again)
    reason          text,
    message         text,
    witness_sha256  bytea,
    similarity      double precision,
    threshold       double precision,
    carrier_id      uuid,                           -- kept: the sample that carries it, its place
    carrier_decision bigint,                        -- and the decision that has that sample's row
    carrier_shard   bigint,
    carrier_position integer,
    slot            integer,                        -- kept: its number in slot_decision
    slot_decision   bigint,
    CHECK ((image_sha256 IS NULL) <> (sample_id IS NULL)),
    UNIQUE (dataset_id, image_sha256, decision_id),
    UNIQUE (sample_id, dataset_id, decision_id)
);
CREATE INDEX changes_by_turn ON sscd_ops.changes (dataset_id, turn);
CREATE INDEX changes_by_decision ON sscd_ops.changes (decision_id);
CREATE INDEX changes_by_witness ON sscd_ops.changes (dataset_id, witness_sha256)
    WHERE witness_sha256 IS NOT NULL;

-- Quarantined samples that a supplement read again: their rows before are none any more from its turn
-- on, where its decision is in force. A row more has what was read in their place.
CREATE TABLE sscd_ops.read_again (
    dataset_id      smallint NOT NULL,
    decision_id     bigint NOT NULL,                -- that read them again
    turn            bigint NOT NULL,                -- its, if that comes into force
    of_decision     bigint NOT NULL,                -- the row before, by its place
    shard_id        bigint NOT NULL,
    position        integer NOT NULL,
    sample_id       uuid,                           -- its; null: a fault of the shard
    again_id        uuid,                           -- what has the row now: another one where image or
                                                    -- caption are others; null: a fault that is gone
    PRIMARY KEY (of_decision, shard_id, position, decision_id)
);
CREATE INDEX read_again_by_decision ON sscd_ops.read_again (decision_id);

-- Images that their first decision quarantined, and which were described when they were read again:
-- where the descriptor lies, as segment_row of images says of all others.
CREATE TABLE sscd_ops.described_later (
    dataset_id      smallint NOT NULL,
    sha256          bytea NOT NULL,
    decision_id     bigint NOT NULL,
    segment_row     bigint NOT NULL,
    PRIMARY KEY (dataset_id, sha256, decision_id)
);
CREATE INDEX described_later_by_decision ON sscd_ops.described_later (decision_id);

CREATE TABLE sscd_ops.matches (
    month           date NOT NULL,
    decision_id     bigint NOT NULL,
    image_sha256    bytea NOT NULL,
    earlier_sha256  bytea NOT NULL,
    similarity      double precision NOT NULL,
    distance        smallint                        -- of the hashes, where they are what is similar
) PARTITION BY RANGE (month);
CREATE INDEX matches_by_image ON sscd_ops.matches (decision_id, image_sha256);

-- When a month of samples is detached, what decides about them goes here.
CREATE TABLE sscd_ops.detached_samples (
    sample_id       uuid NOT NULL,                  -- datasets derived from another share ids
    decision_id     bigint NOT NULL,
    shard_id        bigint NOT NULL,                -- names its source
    position        integer NOT NULL,
    image_sha256    bytea,
    own_fault       boolean,
    rank            integer NOT NULL,
    slot            integer,
    url_sha256      bytea,
    host            text,
    ruled           boolean,                        -- true: a rule stopped it as it was read; else null
    PRIMARY KEY (sample_id, decision_id)
);
CREATE INDEX detached_samples_by_place ON sscd_ops.detached_samples (decision_id, shard_id);
CREATE INDEX detached_samples_by_image ON sscd_ops.detached_samples (image_sha256);
CREATE INDEX detached_samples_by_slot ON sscd_ops.detached_samples (decision_id, slot)
    WHERE slot IS NOT NULL;
CREATE INDEX detached_samples_by_url ON sscd_ops.detached_samples (url_sha256)
    WHERE url_sha256 IS NOT NULL;
CREATE INDEX detached_samples_by_host ON sscd_ops.detached_samples (host COLLATE "C")
    WHERE host IS NOT NULL;

-- One row a source of a decision: its counts.
CREATE TABLE sscd_ops.decision_sources (
    decision_id     bigint NOT NULL REFERENCES sscd_ops.decisions,
    source          text NOT NULL,
    counts          jsonb NOT NULL,
    PRIMARY KEY (decision_id, source)
);

-- Shards that a decision plans, and their files once written.
CREATE TABLE sscd_ops.output_shards (
    output_id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    decision_id     bigint NOT NULL REFERENCES sscd_ops.decisions,
    number          integer NOT NULL,
    plan            text NOT NULL,                  -- 8 hex digits
    form            text NOT NULL,
    samples         integer NOT NULL,
    name            text NOT NULL,                  -- of the tar, relative to the root
    turn            bigint NOT NULL,                -- what is not kept at it is not in the shard
    files           jsonb,                          -- tar, parquet, stats: {"name","sha256","bytes"}
    replaces        boolean NOT NULL DEFAULT false, -- it took the place of others
    UNIQUE (decision_id, plan, number)
);

-- Which shard holds which slots of a decision, in which range of snapshots. A null snapshot_from: in
-- none yet.
CREATE TABLE sscd_ops.placements (
    output_id       bigint NOT NULL REFERENCES sscd_ops.output_shards,
    decision_id     bigint NOT NULL REFERENCES sscd_ops.decisions,
    slot_from       integer NOT NULL,
    slot_to         integer NOT NULL,               -- exclusive
    position        integer NOT NULL,               -- of the first one's sample in the shard
    snapshot_from   integer,
    snapshot_to     integer,                        -- exclusive; null: still in
    PRIMARY KEY (decision_id, slot_from, output_id)
);
CREATE INDEX placements_by_output ON sscd_ops.placements (output_id);
-- What two snapshots differ in: the placements whose range begins or ends between them.
CREATE INDEX placements_by_start ON sscd_ops.placements (snapshot_from);
CREATE INDEX placements_by_end ON sscd_ops.placements (snapshot_to) WHERE snapshot_to IS NOT NULL;

-- Tars of what nights removed (publish.undo = "archive"), in no snapshot. One holds all samples that
-- its decision removed from a place to another one, (shard_id, position), both included, less a few.
CREATE TABLE sscd_ops.archived_shards (
    archive_id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    decision_id     bigint NOT NULL REFERENCES sscd_ops.decisions,
    number          integer NOT NULL,
    plan            text NOT NULL,                  -- 8 hex digits
    name            text NOT NULL,                  -- of the tar, relative to the root
    samples         integer NOT NULL,               -- that it holds
    first_shard     bigint NOT NULL,
    first_position  integer NOT NULL,
    last_shard      bigint NOT NULL,
    last_position   integer NOT NULL,
    without         uuid[] NOT NULL DEFAULT '{}',   -- of these places and not in it: withdrawn, or gone
    files           jsonb,                          -- tar, parquet, stats; null until written, and once let go
    let_go_at       timestamptz,                    -- from then on nobody reads it
    UNIQUE (decision_id, number)
);

CREATE TABLE sscd_ops.snapshots (
    dataset_id      smallint NOT NULL REFERENCES sscd_ops.datasets,
    snapshot        integer NOT NULL,
    parent          integer NOT NULL,
    decision_id     bigint NOT NULL REFERENCES sscd_ops.decisions,
    turn            bigint NOT NULL,
    samples         bigint NOT NULL,
    shards          integer NOT NULL,
    bytes           bigint NOT NULL,
    file            jsonb NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    expired_at      timestamptz,                    -- from then on nobody reads its file and shards
    PRIMARY KEY (dataset_id, snapshot)
);

CREATE INDEX snapshots_readable ON sscd_ops.snapshots (dataset_id, snapshot)
    WHERE expired_at IS NULL;

-- Names that people gave snapshots. A tag keeps its snapshot from being expired.
CREATE TABLE sscd_ops.snapshot_tags (
    dataset_id      smallint NOT NULL,
    name            text NOT NULL,
    snapshot        integer NOT NULL,
    keep_until      date,                           -- the last day (UTC) that it keeps it; null: for ever
    actor           text NOT NULL,
    why             text NOT NULL,
    at              timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (dataset_id, name),
    FOREIGN KEY (dataset_id, snapshot) REFERENCES sscd_ops.snapshots
);

-- What was trained on a snapshot, as people said.
CREATE TABLE sscd_ops.snapshot_users (
    dataset_id      smallint NOT NULL,
    snapshot        integer NOT NULL,
    run             text NOT NULL,
    actor           text NOT NULL,
    at              timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (dataset_id, snapshot, run),
    FOREIGN KEY (dataset_id, snapshot) REFERENCES sscd_ops.snapshots
);
-- Files that no row named when vacuum looked. One of them is removed only while its row is deleting,
-- and locked; a row that comes to name it takes this one away. It stays for a while after the file.
CREATE TABLE sscd_ops.condemned (
    name            text PRIMARY KEY,               -- relative to the root
    dataset_id      smallint NOT NULL REFERENCES sscd_ops.datasets,
    bytes           bigint NOT NULL,
    condemned_at    timestamptz NOT NULL DEFAULT now(),
    deleting        boolean NOT NULL DEFAULT false, -- true: vacuum may remove the file
    removed_at      timestamptz                     -- it did
);
CREATE INDEX condemned_by_dataset ON sscd_ops.condemned (dataset_id);

CREATE TABLE sscd_ops.events (
    event_id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at              timestamptz NOT NULL DEFAULT now(),
    dataset_id      smallint NOT NULL REFERENCES sscd_ops.datasets,
    turn            bigint,
    kind            text NOT NULL,
    actor           text NOT NULL,
    why             text NOT NULL DEFAULT '',
    sample_id       uuid,
    batch_id        bigint REFERENCES sscd_ops.batches,
    details         jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX events_by_batch ON sscd_ops.events (batch_id);

-- What people decide, from its draft on; never deleted. Its decision has the rows of what changed.
CREATE TABLE sscd_ops.orders (
    order_id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    dataset_id      smallint NOT NULL REFERENCES sscd_ops.datasets,
    verb            text NOT NULL,                  -- withdraw | revert
    request         jsonb NOT NULL,                 -- scope and flags; of what: order_subjects
    client_key      text NOT NULL,                  -- by which a command finds it again
    of_order        bigint REFERENCES sscd_ops.orders, -- revert: which one; else whose second part it is
    state           text NOT NULL,                  -- drafted | held | applied | refused | reverted
    message         text NOT NULL DEFAULT '',       -- held, refused: why
    actor           text NOT NULL,                  -- as typed
    why             text NOT NULL,
    drafted_by      jsonb NOT NULL,                 -- database_user, os_user, host; in Airflow airflow_user
    applied_by      jsonb,                          -- who tried to apply it first
    approved_by     jsonb,
    approved        text,                           -- the effect that was approved
    at              timestamptz NOT NULL DEFAULT now(),
    draft           integer NOT NULL DEFAULT 0,     -- its newest one
    decision_id     bigint REFERENCES sscd_ops.decisions,
    turn            bigint,                         -- its decision's: its rules and pictures hold from then on,
    turn_to         bigint,                         -- and not from this one, which reverted it
    finished_at     timestamptz                     -- what it asks beside verdicts, to forget and purge, was done
);
CREATE UNIQUE INDEX orders_by_key ON sscd_ops.orders (dataset_id, client_key)
    WHERE state IN ('drafted', 'held', 'applied');
CREATE UNIQUE INDEX orders_by_decision ON sscd_ops.orders (decision_id);

-- What an order names. urls, domains and sources of a withdrawal in force are its standing rules.
CREATE TABLE sscd_ops.order_subjects (
    order_id        bigint NOT NULL REFERENCES sscd_ops.orders,
    kind            text NOT NULL,                  -- id | sha256 | url | domain | source | picture
    digest          bytea NOT NULL,                 -- id: its 16 bytes; sha256, picture: of the image; else of the value
    value           text,                           -- as it was normalised; null once erased
    host            text,                           -- domain: its labels reversed, org.example.
    descriptor      bytea,                          -- picture of a withdrawal with its copies: float16, and
    hash            bytea,                          -- its perceptual hash; null: plain, or erased
    PRIMARY KEY (order_id, kind, digest)
);
CREATE INDEX order_subjects_by_digest ON sscd_ops.order_subjects (kind, digest);

-- What an order would change, as it was shown: each time another one.
CREATE TABLE sscd_ops.order_drafts (
    order_id        bigint NOT NULL REFERENCES sscd_ops.orders,
    draft           integer NOT NULL,
    turn            bigint NOT NULL,                -- as of which it was worked out
    effect_sha256   text NOT NULL,
    counts          jsonb NOT NULL,
    at              timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (order_id, draft)
);
CREATE TABLE sscd_ops.order_effects (
    order_id        bigint NOT NULL,
    draft           integer NOT NULL,
    subject         bytea NOT NULL,                 -- a sample's 16 bytes
    before          text NOT NULL,                  -- its verdict
    after           text NOT NULL,
    PRIMARY KEY (order_id, draft, subject)
);

-- What became of an order, for whoever asked: a chain for each dataset, every digest of which rests on
-- the one before. Ids and digests alone; what is personal is the attachment, which can be erased.
CREATE TABLE sscd_ops.receipts (
    receipt_id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    dataset_id      smallint NOT NULL REFERENCES sscd_ops.datasets,
    number          integer NOT NULL,               -- in the dataset's chain, from 1
    order_id        bigint NOT NULL REFERENCES sscd_ops.orders,
    kind            text NOT NULL,                  -- withdrawal | refusal | revert | purge
    body            text NOT NULL,                  -- canonical JSON: the text is what the digest is of
    sha256          text NOT NULL,                  -- of the digest before it and the body
    attachment      jsonb,                          -- with a salt; its digest is in the body. Null: erased
    at              timestamptz NOT NULL DEFAULT now(),
    UNIQUE (dataset_id, number),
    UNIQUE (order_id, kind)
);

-- The withdrawn set: pictures that a withdrawal with its copies names. An entry is in force where its
-- order is; what is near one, or has its bytes, is withdrawn by every night.
CREATE TABLE sscd_ops.withdrawn_images (
    dataset_id      smallint NOT NULL,
    sha256          bytea NOT NULL,                 -- of the picture's bytes: it may be no image of the dataset
    order_id        bigint NOT NULL,
    decision_id     bigint NOT NULL,                -- the order's, if that is in force
    row             bigint,                         -- in that decision's segment of role withdrawn; null: no
                                                    -- descriptor (plain, or forgotten), equal bytes alone count
    PRIMARY KEY (dataset_id, sha256, decision_id)
);
CREATE INDEX withdrawn_images_by_decision ON sscd_ops.withdrawn_images (decision_id);

CREATE TABLE sscd_ops.configs (
    dataset_id      smallint NOT NULL REFERENCES sscd_ops.datasets,
    config_sha256   text NOT NULL,
    config          jsonb NOT NULL,
    turn            bigint,                         -- the first turn decided with it
    at              timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (dataset_id, config_sha256)
);

-- Samples whose text is erased: what is made again of their source shard leaves it out. Ids alone.
CREATE TABLE sscd_ops.erased_samples (
    dataset_id      smallint NOT NULL REFERENCES sscd_ops.datasets,
    sample_id       uuid NOT NULL,
    shard_id        bigint NOT NULL,                -- names the source and the file it was read from
    PRIMARY KEY (dataset_id, sample_id)
);
CREATE INDEX erased_samples_by_shard ON sscd_ops.erased_samples (shard_id);

-- Images whose descriptors and hashes are forgotten: their rows of segments and files are blank.
CREATE TABLE sscd_ops.forgotten_images (
    dataset_id      smallint NOT NULL REFERENCES sscd_ops.datasets,
    sha256          bytea NOT NULL,
    PRIMARY KEY (dataset_id, sha256)
);
