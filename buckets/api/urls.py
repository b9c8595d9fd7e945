from django.urls import path, register_converter

from buckets.api import content, group_views, proof_views, share_views, usage_views, views
from buckets.api.converters import BucketConverter, KeyConverter

register_converter(BucketConverter, "bucket")
register_converter(KeyConverter, "key")

urlpatterns = [
    path("buckets", views.Buckets.as_view(), name="buckets"),
    path("buckets/<bucket:bucket>", views.BucketDetail.as_view(), name="bucket"),
    path("buckets/<bucket:bucket>/objects", views.Objects.as_view(), name="objects"),
    path("buckets/<bucket:bucket>/objects/<key:key>", views.ObjectDetail.as_view(), name="object"),
    path("buckets/<bucket:bucket>/content/<key:key>", content.Content.as_view(), name="content"),
    path("buckets/<bucket:bucket>/leases", views.Leases.as_view(), name="leases"),
    path("buckets/<bucket:bucket>/uploads", views.Uploads.as_view(), name="uploads"),
    path("buckets/<bucket:bucket>/downloads", views.Downloads.as_view(), name="downloads"),
    path("buckets/<bucket:bucket>/stat", views.StatObjects.as_view(), name="stat-objects"),
    path("buckets/<bucket:bucket>/copy", group_views.CopyObjects.as_view(), name="copy-objects"),
    path("buckets/<bucket:bucket>/rename", group_views.RenameObjects.as_view(), name="rename-objects"),
    path("buckets/<bucket:bucket>/commits", group_views.Commits.as_view(), name="commits"),
    path("buckets/<bucket:bucket>/delete", views.DeleteObjects.as_view(), name="delete-objects"),
    path("proof", proof_views.Proofs.as_view(), name="proof"),
    path("shares", share_views.Shares.as_view(), name="shares"),
    path("shares/<int:share_id>", share_views.ShareDetail.as_view(), name="share-detail"),
    path("usage", usage_views.Usage.as_view(), name="usage"),
    path("usage/history", usage_views.UsageHistory.as_view(), name="usage-history"),
    path("uploads/<uuid:upload_id>", views.UploadDetail.as_view(), name="upload"),
]
