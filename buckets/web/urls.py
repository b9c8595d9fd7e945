from django.urls import path

from buckets.web import bucket_pages, dashboard, object_changes, objects, preview, share_pages, shares, transfers

urlpatterns = [
    path("", dashboard.Dashboard.as_view(), name="dashboard"),
    path("check-store", dashboard.CheckStore.as_view(), name="check-store"),
    path("buckets", bucket_pages.Buckets.as_view(), name="buckets"),
    path("new-bucket", bucket_pages.NewBucket.as_view(), name="bucket-new"),
    path("buckets/<bucket:bucket>", objects.Objects.as_view(), name="objects"),
    path("buckets/<bucket:bucket>/settings", bucket_pages.BucketSettingsPage.as_view(), name="bucket-settings"),
    path("buckets/<bucket:bucket>/delete", bucket_pages.BucketDeletion.as_view(), name="bucket-delete"),
    path("buckets/<bucket:bucket>/object", objects.ObjectPage.as_view(), name="object"),
    path("buckets/<bucket:bucket>/object-details", objects.ObjectDetails.as_view(), name="object-details"),
    path("buckets/<bucket:bucket>/delete-objects", object_changes.DeleteObjects.as_view(), name="objects-delete"),
    path("buckets/<bucket:bucket>/move-objects", object_changes.MoveObjects.as_view(), name="objects-move"),
    path("buckets/<bucket:bucket>/download", transfers.Download.as_view(), name="download"),
    path("buckets/<bucket:bucket>/archive", transfers.Archive.as_view(), name="archive"),
    path("buckets/<bucket:bucket>/preview", preview.Preview.as_view(), name="preview"),
    path("s/<str:token>", shares.SharePage.as_view(), name="share"),
    path("s/<str:token>/download", shares.ShareDownload.as_view(), name="share-download"),
    path("s/<str:token>/content/<str:ticket>", shares.ShareContent.as_view(), name="share-content"),
    path("shares", share_pages.Shares.as_view(), name="shares"),
    path("new-share", share_pages.NewShare.as_view(), name="share-new"),
    path("shares/<int:share_id>", share_pages.ShareDetails.as_view(), name="share-edit"),
    path("shares/<int:share_id>/revoke", share_pages.RevokeShare.as_view(), name="share-revoke"),
    path("buckets/<bucket:bucket>/object-shares", share_pages.ObjectShares.as_view(), name="object-shares"),
]
