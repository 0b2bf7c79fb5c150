"""The tab “Inbox”: what visitors asked and did not get answered, and the versions of the published assistant."""
