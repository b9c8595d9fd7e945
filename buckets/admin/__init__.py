"""Buckets and what they hold, for operators.

Whatever changes something here calls the service that the API calls; rows that services alone write are read-only.
Objects, chunks and the outbox may have millions of rows: their lists are ordered by an index, and searched by one.
"""

from django.contrib import admin

from buckets import models
from buckets.admin.buckets import BucketAdmin
from buckets.admin.journal import JournalAdmin, JournalNeedleAdmin, RemovedAdmin
from buckets.admin.objects import ChunkAdmin, ObjectAdmin, UploadAdmin
from buckets.admin.outbox import OutboxAdmin
from buckets.admin.proof import OrphanAdmin, ProofAdmin, SweepAdmin
from buckets.admin.shares import ShareAdmin
from buckets.admin.upkeep import SurveyAdmin, SurveyedVolumeAdmin, UsageSampleAdmin

# In the order of the index page.
admin.site.register(models.Bucket, BucketAdmin)
admin.site.register(models.Object, ObjectAdmin)
admin.site.register(models.Chunk, ChunkAdmin)
admin.site.register(models.Upload, UploadAdmin)
admin.site.register(models.Share, ShareAdmin)
admin.site.register(models.Journal, JournalAdmin)
admin.site.register(models.JournalNeedle, JournalNeedleAdmin)
admin.site.register(models.Removed, RemovedAdmin)
admin.site.register(models.Survey, SurveyAdmin)
admin.site.register(models.SurveyedVolume, SurveyedVolumeAdmin)
admin.site.register(models.Outbox, OutboxAdmin)
admin.site.register(models.Proof, ProofAdmin)
admin.site.register(models.Sweep, SweepAdmin)
admin.site.register(models.Orphan, OrphanAdmin)
admin.site.register(models.UsageSample, UsageSampleAdmin)
