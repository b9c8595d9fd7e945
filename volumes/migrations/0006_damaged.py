from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("volumes", "0005_redundancy")]

    operations = [
        migrations.AddIndex(
            model_name="replica",
            index=models.Index(condition=models.Q(damaged_count__gt=0), fields=["volume"], name="replica_damaged"),
        ),
    ]
